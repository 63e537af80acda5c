"""Tab "Speak": speech that is heard in a browser, and decisions that training can read."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import BrowserContext, Page

from stepaudio.errors import RequestError
from stepaudio.training.data import load_preference_pairs, read_preferences
from stepaudio_streaming.http_api.speech import speech_routes
from stepaudio_streaming.http_api.transcriptions import transcription_routes
from stepaudio_streaming.server.gateway import Gateway
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_webui.backend import OUTPUT_RATE, SpeakRequest
from stepaudio_webui.live_speech import LiveSpeech
from stepaudio_webui.local_backend import LocalBackend
from stepaudio_webui.server_backend import ServerBackend
from stepaudio_webui.takes import (
    MAX_TEXT,
    Speech,
    SpeechForm,
    Take,
    default_preference_folder,
    save_preference,
)
from tests.streaming.serving import serving
from tests.streaming.test_http_audio import ScriptedRecognizer, ScriptedSpeaker
from tests.webui.site import Site, screenshot, showing
from tests.webui.tabs import PATIENCE_S, PIECE, SpeakTab, ToneBackend

TEXT = "It is ten past nine."


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the user's own data are; the folder of preferences in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "stepaudio" / "preferences"


@pytest.fixture
def tone_site(home: Path) -> Iterator[Site]:
    with ToneBackend().showing() as site:
        yield site


def take(samples: np.ndarray | None = None, seed: int = 0, **fields: Any) -> Take:
    sound = np.full(2400, 0.1 * (seed + 1), np.float32) if samples is None else samples
    request = SpeakRequest(**{"text": "hello", "seed": seed} | fields)
    return Take(request, sound, (("hello", (1, 2)),), (), 0.1, 0.2)


# ---- in a browser, with nano ---------------------------------------------------------------------


def test_nano_is_heard_and_judged(
    page: Page, nano: LocalBackend, home: Path, pictures: Path | None
) -> None:
    with showing(nano, Gateway(nano.engine, ServerOptions()).serve) as site:
        tab = SpeakTab(page, site)
        tab.write(TEXT)
        page.click("#speak-start")
        heard = tab.heard()
        expected = sum(map(len, nano.speak(SpeakRequest(text=TEXT)))) / OUTPUT_RATE
        assert expected > 0.5
        assert int(heard["pushedMs"]) == pytest.approx(1000 * expected, abs=2)
        assert int(heard["playedMs"]) == pytest.approx(1000 * expected, abs=60)
        assert float(heard["peak"]) > 0.02  # mean level of the loudest 5 ms
        assert "of speech, seed 0" in tab.wait_for("speak-status", "seed 0")

        tab.make_takes()
        page.click("#prefer-b")
        assert "B is better. 1 decision" in tab.wait_for("takes-status", "Saved")
        page.locator("#takes-status").scroll_into_view_if_needed()
        screenshot(page, pictures, "speak")
    (pair,) = load_preference_pairs(home, with_codes=True)
    assert pair.prompt.text == TEXT
    assert (pair.chosen.seed, pair.rejected.seed) == (1, 0)
    with nano.local_model() as model:
        stream = model.synthesizer.stream(TEXT, seed=1)
        for _ in stream:
            pass
    assert pair.chosen.codes == stream.spoken.codes
    sound, rate = soundfile.read(pair.chosen.audio_filepath)
    assert rate == OUTPUT_RATE and len(sound) / rate == pytest.approx(
        pair.chosen.duration, abs=0.01
    )
    assert np.abs(sound - stream.spoken.samples.numpy()).max() < 1e-3


# ---- in a browser, with a model that speaks in tones ---------------------------------------------


def test_a_decision_can_be_corrected(page: Page, tone_site: Site, home: Path) -> None:
    tab = SpeakTab(page, tone_site)
    page.get_by_text(str(home)).wait_for(timeout=1000 * PATIENCE_S)
    tab.write("one two three")
    page.fill("#speak-instruction input, #speak-instruction textarea", "sadly")
    page.fill("#speak-seed input", "5")
    tab.make_takes()
    assert "A: 0.6 s, seed 5; B: 0.6 s, seed 6" in tab.wait_for("takes-status", "seed 6")
    assert "ignored sadly" in page.inner_text("#takes-status")
    page.click("#prefer-b")
    tab.wait_for("takes-status", "B is better")
    page.click("#prefer-a")
    assert "2 decisions" in tab.wait_for("takes-status", "A is better")
    assert [row.winner for row in read_preferences(home)] == ["b", "a"]
    (pair,) = load_preference_pairs(home)
    assert (pair.chosen.seed, pair.rejected.seed) == (5, 6)
    assert pair.prompt.instruction == "sadly"


def test_problems_are_told_and_the_page_goes_on(
    page: Page, tone_site: Site, home: Path, tmp_path: Path
) -> None:
    tab = SpeakTab(page, tone_site)
    page.click("#speak-start")
    assert "no text" in tab.status("speak-status", "problem")
    page.click("#takes-start")
    assert "no text" in tab.status("takes-status", "problem")
    tab.write("word " * 900)
    page.click("#speak-start")
    assert "4500 characters" in tab.wait_for("speak-status", "4500")

    tab.write("hello")
    page.get_by_role("button", name="Speak in the voice of a recording").click()
    voice = tmp_path / "me.wav"
    soundfile.write(voice, np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    page.set_input_files("#speak-reference input[type=file]", voice)
    page.wait_for_selector("#speak-reference button[aria-label=Clear]")
    page.click("#speak-start")
    assert "Tick the box" in tab.wait_for("speak-status", "agrees")
    page.check("#speak-consent input")
    page.click("#speak-start")
    assert int(tab.heard()["pushedMs"]) == 200

    # A decision about a cloned voice keeps the recording.
    tab.make_takes()
    page.click("#prefer-a")
    tab.wait_for("takes-status", "Saved")
    (pair,) = load_preference_pairs(home)
    assert Path(pair.prompt.voice_filepath).read_bytes() == voice.read_bytes()


def test_speech_can_be_stopped(page: Page, home: Path) -> None:
    # The piece that is being made takes long; a click on "Speak" behind "Stopped" counts.
    with ToneBackend(pause_s=0.5).showing() as site:
        tab = SpeakTab(page, site)
        tab.write("word " * 200)
        page.click("#speak-start")
        page.wait_for_selector("#speak-stream .sp[data-state=speaking]")
        page.click("#speak-stop")
        page.wait_for_selector("#speak-stream .sp[data-state=idle]", state="attached")
        assert "Stopped" in tab.wait_for("speak-status", "Stopped")
        tab.write("again")
        page.click("#speak-start")
        assert int(tab.heard()["pushedMs"]) == 200


def test_two_browsers_do_not_mix(context: BrowserContext, home: Path) -> None:
    browser = context.browser
    assert browser is not None
    with ToneBackend(pause_s=0.05).showing() as site:
        tabs = [SpeakTab(browser.new_context().new_page(), site) for _ in range(2)]
        for index, tab in enumerate(tabs):
            tab.write("word " * (6 + 4 * index))
        for tab in tabs:
            tab.page.click("#speak-start")
        for index, tab in enumerate(tabs):
            assert int(tab.heard()["pushedMs"]) == 200 * (6 + 4 * index)
            assert f"{0.2 * (6 + 4 * index):.1f} s of speech" in tab.wait_for(
                "speak-status", "of speech"
            )
            tab.page.context.close()


def test_a_server_speaks_too(page: Page, home: Path, tmp_path: Path) -> None:
    speaker = ScriptedSpeaker()
    routers = (speech_routes(speaker, "nano"), transcription_routes(ScriptedRecognizer(), "nano"))

    async def no_session(websocket: object) -> None: ...

    with (
        serving(routers=routers) as server,
        showing(ServerBackend(server.http), no_session) as site,
    ):
        tab = SpeakTab(page, site)
        tab.write("four hours of work")
        page.fill("#speak-seed input", "3")
        page.click("#speak-start")
        assert int(tab.heard()["pushedMs"]) == 800
        assert speaker.requests[-1].seed == 3
        page.get_by_role("button", name="Speak in the voice of a recording").click()
        voice = tmp_path / "me.wav"
        soundfile.write(voice, np.zeros(32_000), 16_000)
        page.set_input_files("#speak-reference input[type=file]", voice)
        page.wait_for_selector("#speak-reference button[aria-label=Clear]")
        page.check("#speak-consent input")
        page.click("#speak-start")
        assert "A server takes no reference recordings" in tab.wait_for("speak-status", "server")
        # The scripted server says the same with every seed: there is nothing to prefer.
        page.click("#speak-reference button[aria-label=Clear]")
        tab.make_takes()
        page.click("#prefer-a")
        assert "the same sound" in tab.wait_for("takes-status", "Both takes")
    assert not home.exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(
    context: BrowserContext, tone_site: Site, pictures: Path | None, scheme: Any
) -> None:
    assert context.browser is not None
    phone = context.browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tab = SpeakTab(phone.new_page(), tone_site)
    tab.write("one two three")
    tab.make_takes()
    width = tab.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    screenshot(tab.page, pictures, f"speak_phone_{scheme}")
    phone.close()


# ---- without a browser ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": " \n"}, "no text"),
        ({"text": "x" * (MAX_TEXT + 1)}, "4097 characters"),
        ({"text": "x", "seed": -1}, "seed"),
        ({"text": "x", "reference": "me.wav"}, "Tick the box"),
    ],
)
def test_forms_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SpeechForm(**fields).checked(ToneBackend())


def test_a_reference_stands_before_the_named_voice() -> None:
    form = SpeechForm(text="x", voice="high", instruction=" very \n slowly ", seed=4)
    request = form.checked(ToneBackend())
    assert (request.voice, request.instruction, request.seed) == ("high", "very slowly", 4)
    form = replace(form, reference="me.wav", has_consent=True)
    assert form.checked(ToneBackend()).voice == "me.wav"


def test_a_take_has_all_that_was_heard() -> None:
    speech = Speech(ToneBackend(), SpeakRequest(text="a b c", seed=2, instruction="sadly"))
    pieces = list(speech)
    made = speech.take
    assert np.array_equal(np.concatenate(pieces), made.samples)
    assert made.duration_s == pytest.approx(3 * PIECE / OUTPUT_RATE)
    assert made.sentences == (("a", (2, 1)), ("b", (2, 1)), ("c", (2, 1)))
    assert made.warnings == ("instruction: ignored sadly",)
    assert 0 < made.first_sound_s <= made.wall_s


def test_preferences_are_read_back(tmp_path: Path) -> None:
    a, b = take(seed=0, voice="high"), take(seed=1, voice="high")
    assert save_preference(tmp_path, a, b, "b", "nano") == 1
    assert save_preference(tmp_path, b, replace(a, sentences=None), "a", "nano") == 2
    first, second = read_preferences(tmp_path)
    assert (first.winner, second.winner) == ("b", "a")
    assert first.prompt.voice == "high" and first.a.codes == (1, 2) and second.b.codes is None
    (pair,) = load_preference_pairs(tmp_path)
    assert pair.chosen.seed == 1
    with pytest.raises(RequestError, match="same sound"):
        save_preference(tmp_path, a, take(seed=9, samples=a.samples), "a", "nano")


def test_preferences_are_among_the_users_own_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_preference_folder() == tmp_path / ".local/share/stepaudio/preferences"


def test_live_speech_waits_for_pieces_and_ends() -> None:
    live = LiveSpeech()
    run = live.open()
    assert live.fetch({"run": run}, wait_s=0.0) == {"pcm": "", "ended": False}
    timer = threading.Timer(0.05, lambda: live.push(run, np.array([0.0, 1.0, -2.0], np.float32)))
    timer.start()
    got = live.fetch({"run": run}, wait_s=30.0)
    assert np.frombuffer(base64.b64decode(got["pcm"]), "<i2").tolist() == [0, 32767, -32767]
    assert not got["ended"]
    live.end(run)
    assert live.fetch({"run": run}) == {"pcm": "", "ended": True}
    assert live.fetch({"run": "guessed"}) == {"pcm": "", "ended": True}


def test_pages_that_were_closed_do_not_pile_up() -> None:
    live = LiveSpeech()
    first = live.open()
    for _ in range(100):
        live.push(live.open(), np.zeros(10, np.float32))
    live.push(first, np.zeros(10, np.float32))
    live.end(first)
    assert live.fetch({"run": first})["ended"]
