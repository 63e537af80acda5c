"""The tab "Voice chat" in a real browser: sound goes in by the microphone and comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import BrowserContext, Page

from stepaudio.audio.io import load_audio
from stepaudio_streaming.events import Respond, TruncateItem
from stepaudio_webui.realtime_proxy import RealtimeProxy
from stepaudio_webui.server_backend import ServerBackend
from tests.streaming.scripted_engine import Line
from tests.streaming.serving import serving
from tests.webui.conftest import BrowserFactory
from tests.webui.site import ScriptedBackend, Site, VoicePage, screenshot, showing

RATE = 48_000  # of Chromium's pretended microphone
# Four minutes, so that even a busy machine interrupts it; it is not made all at once.
LONG = Line(words=("one", " two", " three") * 80, word_ms=1000, pace_s=0.3)


def recording(path: Path, samples: np.ndarray, *, before_s: float = 0.6) -> Path:
    """File for the microphone: a pause, the sound (16 kHz), a pause."""
    sound = np.interp(np.arange(0, len(samples) - 1, 1 / 3), np.arange(len(samples)), samples)
    parts = [np.zeros(int(before_s * RATE)), sound, np.zeros(RATE)]
    soundfile.write(path, np.concatenate(parts), RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def speech(examples: Path) -> np.ndarray:
    """A person who speaks, float32 at 16 kHz."""
    samples: np.ndarray = load_audio(examples / "us_female_1.ogg").samples.numpy()[: 3 * 16_000]
    return samples


@pytest.fixture(scope="module")
def microphone(speech: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording(tmp_path_factory.mktemp("microphone") / "speech.wav", speech)


@pytest.fixture(scope="module")
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture(scope="module")
def site(backend: ScriptedBackend) -> Iterator[Site]:
    with backend.showing() as shown:
        yield shown


@pytest.fixture(autouse=True)
def _short_answers(backend: ScriptedBackend) -> None:
    backend.engine.lines = (Line(),)


@contextmanager
def looking(launch: BrowserFactory, site: Site, microphone: Path | None) -> Iterator[VoicePage]:
    context = launch(microphone).new_context(viewport={"width": 1180, "height": 860})
    try:
        yield VoicePage(context.new_page(), site)
    finally:
        context.close()


def test_a_spoken_turn_gives_a_heard_reply(
    launch: BrowserFactory, nano_site: Site, microphone: Path, pictures: Path | None
) -> None:
    with looking(launch, nano_site, microphone) as voice:
        voice.press("Talk")
        voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
        user, answer = voice.turns()[:2]
        assert (user["role"], answer["role"]) == ("user", "assistant")
        # What was recorded is the speech of the microphone, with some padding; a browser on a busy
        # machine may lose a piece of it.
        assert 1.0 < user["pcm"] < 4.2 and user["text"]
        # What was heard is all that was made, and not silence.
        assert answer["pcm"] > 0.5 and answer["text"]
        assert answer["heardMs"] == pytest.approx(1000 * answer["pcm"], abs=60)
        assert answer["loudness"] > 0.01
        assert answer["latencyMs"] > 0
        assert voice.ask("talk.activity") == "listening"
        if pictures is not None:
            voice.say("what is three plus four")
            voice.when("talk.turns.all.length > 3 && talk.activity === 'listening'")
            screenshot(voice.page, pictures, "voice-chat")


def test_a_piece_that_comes_as_the_loudspeaker_runs_dry_is_waited_for(
    page: Page, site: Site
) -> None:
    page.goto(f"{site.url}/voice/static/audio.js")
    busy = page.evaluate(
        """async () => {
          const { Player } = await import("/voice/static/audio.js");
          const player = new Player();
          player.node = { port: { postMessage() {} } };
          const busy = [];
          player.push("answer", new Int16Array(1));
          player.push("answer", new Int16Array(1)); // while the audio thread tells of the first one
          player.hear({ drained: 1 });
          busy.push(player.isBusy);
          player.hear({ drained: 2 });
          return [...busy, player.isBusy];
        }"""
    )
    assert busy == [True, False]


def test_speaking_interrupts_the_answer(
    launch: BrowserFactory, site: Site, backend: ScriptedBackend, microphone: Path
) -> None:
    backend.engine.lines = (LONG, Line())
    with looking(launch, site, microphone) as voice:
        voice.say("count")
        voice.when("talk.activity === 'speaking'")
        voice.press("Talk")
        voice.when("talk.turns.all[1].state === 'interrupted' && talk.interrupted === null")
        heard_ms = voice.ask("talk.turns.all[1].heardMs")
        assert 0 < heard_ms < 230_000
        voice.when("talk.turns.all[3]?.role === 'assistant'")
        # Nothing of the old answer is played any more, and the model knows what was heard of it.
        assert voice.ask("talk.turns.all[1].heardMs") == heard_ms
        (session,) = [one for one in backend.engine.sessions if not one.closed]
        item = voice.ask("talk.turns.all[1].item")
        cut = [
            one for one in session.commands if isinstance(one, TruncateItem) and one.item_id == item
        ]
        # The server's estimate may come first; the page's measurement replaces it.
        assert cut[-1].audio_ms == pytest.approx(heard_ms, abs=60)


def test_typing_interrupts_too(page: Page, site: Site, backend: ScriptedBackend) -> None:
    backend.engine.lines = (LONG, Line())
    voice = VoicePage(page, site)
    voice.say("count")
    voice.when("talk.turns.last('assistant')?.heardMs > 300")
    voice.say("stop")
    voice.when("talk.turns.all[3]?.state === 'done' && !talk.player.isBusy")
    counted, last = voice.turns()[1], voice.turns()[3]
    assert counted["state"] == "interrupted" and 300 < counted["heardMs"] < 230_000
    assert last["heardMs"] == pytest.approx(400, abs=30)
    # The model knows what was heard before it answers.
    commands = [one for one in backend.engine.sessions if not one.closed][-1].commands
    cut = [i for i, one in enumerate(commands) if isinstance(one, TruncateItem)]
    asked = [i for i, one in enumerate(commands) if isinstance(one, Respond)]
    assert commands[cut[-1]].audio_ms == pytest.approx(counted["heardMs"], abs=1)
    assert cut[-1] < asked[1]


def test_typing_tools_and_downloads(page: Page, site: Site, backend: ScriptedBackend) -> None:
    call = Line(call=("calculator", '{"sum": "three plus four"}'))
    backend.engine.lines = (call, Line(("It is", " seven.")))
    voice = VoicePage(page, site)
    voice.say("what is three plus four")
    voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
    user, tool, answer = voice.turns()
    assert user["text"] == "what is three plus four"
    assert (tool["name"], tool["state"]) == ("calculator", "done") and "7" in tool["text"]
    assert answer["text"] == "It is seven." and answer["heardMs"] == pytest.approx(400, abs=30)
    assert "calculator" in page.inner_text("stepaudio-voice .log")

    with page.expect_download() as text:
        voice.press("JSON")
    written = json.loads(Path(text.value.path()).read_text())
    assert [turn["role"] for turn in written["turns"]] == ["user", "tool", "assistant"]
    assert written["turns"][2]["first_sound_ms"] > 0
    with page.expect_download() as sound:
        voice.press("Audio")
    samples, rate = soundfile.read(sound.value.path())
    assert rate == 24_000 and len(samples) == pytest.approx(0.7 * rate, abs=50)
    assert abs(samples).max() > 0.2

    voice.press("Clear")
    voice.when("talk.turns.all.length === 0")


def test_push_to_talk_with_the_keyboard(
    launch: BrowserFactory, site: Site, backend: ScriptedBackend, microphone: Path
) -> None:
    with looking(launch, site, microphone) as voice:
        voice.page.get_by_label("Push to talk").check()
        voice.press("Talk")
        hold = voice.page.get_by_role("button", name="Hold to speak")
        hold.focus()
        voice.page.keyboard.down(" ")
        voice.when("talk.activity === 'hearing' && talk.sent > 24000")
        voice.page.keyboard.up(" ")
        voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
        user, answer = voice.turns()
        assert user["text"].endswith(" ms") and user["pcm"] >= 1.0
        assert answer["heardMs"] > 300


def test_an_uploaded_recording_takes_the_place_of_a_microphone(
    page: Page, site: Site, examples: Path, tmp_path: Path
) -> None:
    voice = VoicePage(page, site)
    page.set_input_files("stepaudio-voice [name=file]", examples / "digit_seven.wav")
    voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
    user, answer = voice.turns()
    assert user["text"] == f"{round(1000 * user['pcm'])} ms"
    assert answer["heardMs"] > 300

    long = tmp_path / "long.wav"
    soundfile.write(long, np.zeros(70 * 8000), 8000)
    page.set_input_files("stepaudio-voice [name=file]", long)
    assert "70 s long" in voice.problem
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound at all")
    page.set_input_files("stepaudio-voice [name=file]", broken)
    page.wait_for_function(
        "() => document.querySelector('stepaudio-voice .problem p').textContent"
        ".includes('broken.wav holds no sound')"
    )
    # The page stays usable.
    voice.say("hello")
    voice.when("talk.turns.all.length === 4")


def test_two_browsers_do_not_mix(launch: BrowserFactory, site: Site) -> None:
    with looking(launch, site, None) as one, looking(launch, site, None) as other:
        one.say("I am the first")
        other.say("I am the second")
        for voice in (one, other):
            voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
        assert [turn["text"] for turn in one.turns()] == ["I am the first", "Hello there."]
        assert [turn["text"] for turn in other.turns()] == ["I am the second", "Hello there."]


def test_a_refused_microphone_is_told_in_plain_words(
    launch: BrowserFactory, site: Site, pictures: Path | None
) -> None:
    context = launch(refused=True).new_context(viewport={"width": 1180, "height": 860})
    voice = VoicePage(context.new_page(), site)
    voice.press("Talk")
    assert "does not let this page use the microphone" in voice.problem
    voice.say("hello")
    voice.when("talk.turns.last('assistant')?.state === 'done'")
    context.close()


def test_a_server_that_goes_away_and_comes_back(page: Page) -> None:
    with serving(max_session_s=3600.0) as running:
        backend = ServerBackend(running.http)
        with showing(backend, RealtimeProxy(backend).serve) as site:
            voice = VoicePage(page, site)
            voice.say("hello")
            voice.when("talk.turns.last('assistant')?.state === 'done'")
            running.stop()
            # Either the broken conversation or the next look at the server tells it first.
            assert "gone" in voice.problem or "does not answer" in voice.problem
            page.wait_for_function(
                "() => document.querySelector('stepaudio-voice .problem p').textContent"
                ".includes('does not answer')"
            )
            assert page.get_by_role("button", name="Talk", exact=True).is_disabled()
            assert [turn["text"] for turn in voice.turns()] == ["hello", "Hello there."]


def test_a_model_that_cannot_converse(page: Page) -> None:
    words = "mini: realtime sessions need dialogue.hearing 'transcript'"
    with ScriptedBackend(chat="failed", chat_problem=words).showing() as site:
        voice = VoicePage(page, site)
        assert voice.problem == words
        assert page.get_by_role("button", name="Talk", exact=True).is_disabled()


def test_foreign_pages_cannot_use_the_conversation(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto(site.url.replace("127.0.0.1", "localhost") + "/voice/status")
    opened = page.evaluate(
        "(url) => new Promise((done) => { const socket = new WebSocket(url);"
        " socket.onopen = () => done(true); socket.onerror = () => done(false); })",
        site.url.replace("http", "ws") + "/v1/realtime?model=nano",
    )
    assert opened is False
