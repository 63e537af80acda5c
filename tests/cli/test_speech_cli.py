"""``stepaudio resynth`` and ``stepaudio chat --out`` as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from stepaudio.models.token2wav.folder import save_parts
from tests.cli.conftest import Command
from tests.scripted import scripted_checkpoint
from tests.unit.conftest import tokenizer_definition
from tests.unit.models.token2wav.parts import RATE, SAMPLES_PER_TOKEN, small_parts
from tests.unit.tasks.conftest import CALLS, CODES, SPEECH, TEXT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared voices are kept here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers "Hello world" in speech, and can speak."""
    folder = tmp_path_factory.mktemp("checkpoints") / "mini"
    scripted_checkpoint(folder, tokenizer_definition(adds_space=False), [TEXT, SPEECH])
    save_parts(folder / "token2wav", small_parts())
    return folder


@pytest.fixture(scope="module")
def recording(examples: Path) -> Path:
    return examples / "us_female_1.ogg"


def duration_s(path: Path) -> float:
    with soundfile.SoundFile(path) as sound:
        assert sound.samplerate == RATE
        assert sound.channels == 1
        return sound.frames / sound.samplerate


# ---- resynth -----------------------------------------------------------------------------------


def test_resynth(run: Command, mini: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    done = run("resynth", recording, out, "--model", mini)
    assert (done.status, done.errors) == (0, [])
    expected = soundfile.info(recording).duration
    assert duration_s(out) == pytest.approx(expected, abs=0.04)
    assert done.lines[0].startswith(f"{recording} -> {out}: {duration_s(out):.2f} s, ")
    again = run("resynth", "-", tmp_path / "again.wav", "--model", mini / "token2wav",
                stdin=recording.read_bytes())  # fmt: skip
    assert again.lines[0].startswith("standard input -> ")
    assert (tmp_path / "again.wav").read_bytes() == out.read_bytes()
    for other in (["--voice", "emodb03"], ["--seed", "1"]):
        assert run("resynth", recording, tmp_path / "b.wav", "--model", mini, *other).status == 0
        assert (tmp_path / "b.wav").read_bytes() != out.read_bytes()
    assert len(list((tmp_path / "cache" / "stepaudio" / "voices").iterdir())) == 2


def test_resynth_of_short_recordings(run: Command, mini: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, [0.1, -0.1] * 4000, 16_000)
    done = run("resynth", short, tmp_path / "out.flac", "--model", mini)
    assert (done.status, done.out) == (1, b"")
    assert "short.wav: lasts 0.50 s, but a voice needs at least 1 s" in done.errors[0]
    done = run("resynth", short, tmp_path / "out.flac", "--model", mini, "--voice", "kathleen")
    assert (done.status, done.errors) == (0, [])
    assert soundfile.info(tmp_path / "out.flac").duration == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["no.wav", "out.wav"], 1, "no.wav: no such file"),
        (["{recording}", "out.txt"], 2, "out.txt: the suffix must be one of .wav, .flac"),
        (["{recording}", "no/such/out.wav"], 1, "out.wav: cannot be written: there is no folder"),
        (["{recording}", "out.wav", "--voice", "nobody"], 1, "kathleen, slt, rms, awb, emodb03"),
        (["{recording}", "out.wav", "--seed", "-1"], 2, "--seed must not be negative"),
        (["{recording}", "out.wav", "--model", "no/such"], 1, "no/such: no such folder"),
        (["{recording}"], 2, "OUT"),
    ],
)
def test_bad_requests_of_resynth(
    run: Command,
    mini: Path,
    recording: Path,
    tmp_path: Path,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    words = [str(recording) if word == "{recording}" else word for word in arguments]
    model = [] if "--model" in words else ["--model", str(mini)]
    done = run("resynth", *words, *model, cwd=tmp_path)
    assert (done.status, done.out) == (status, b"")
    assert len(done.errors) == 1
    assert message in done.errors[0]
    assert not list(tmp_path.glob("out*"))


# ---- chat --------------------------------------------------------------------------------------

SECONDS = len(CODES) * SAMPLES_PER_TOKEN / RATE


def test_a_spoken_answer(run: Command, mini: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "reply.wav"
    done = run("chat", "--model", mini, "--text", "Hi", "--out", out)
    assert (done.status, done.errors) == (0, [])
    assert done.lines == ["Hello world", f"[0.44 s of speech: {out}]"]
    assert duration_s(out) == pytest.approx(SECONDS)
    done = run("chat", "--model", mini, "--text", "Hi", "--out", out, "--json")
    assert done.objects[0]["out"] == str(out)
    other = tmp_path / "other.wav"
    done = run("chat", "--model", mini, "--text", "Hi", "--out", other, "--voice", recording)
    assert done.status == 0
    assert other.read_bytes() != out.read_bytes()


def test_all_answers_of_a_conversation(run: Command, mini: Path, tmp_path: Path) -> None:
    out = tmp_path / "reply.wav"
    done = run("chat", "--model", mini, "--out", out, stdin=b"Hi\nAnd you?\n")
    assert (done.status, len(done.lines)) == (0, 4)
    assert duration_s(out) == pytest.approx(2 * SECONDS)


def test_an_answer_without_speech(run: Command, tmp_path: Path) -> None:
    script = ("<tts_start>", "Hello", "<tts_end>", "<|EOT|>")
    folder = tmp_path / "mini"
    scripted_checkpoint(folder, tokenizer_definition(adds_space=False), [script])
    save_parts(folder / "token2wav", small_parts())
    out = tmp_path / "reply.wav"
    done = run("chat", "--model", folder, "--text", "Hi", "--out", out)
    assert done.status == 1
    assert done.errors == [f"stepaudio: {out}: not written: no answer has audio tokens"]
    assert not out.exists()


def test_a_checkpoint_that_cannot_speak(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    scripted_checkpoint(folder, tokenizer_definition(adds_space=False), [CALLS])
    done = run("chat", "--model", folder, "--text", "Hi", "--out", tmp_path / "reply.wav")
    assert (done.status, done.out) == (1, b"")
    assert len(done.errors) == 1
    assert f"{folder}: this checkpoint cannot speak" in done.errors[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "Hi", "--voice", "kathleen"], "add --out FILE"),
        (["--text", "Hi", "--out", "reply"], "reply: the suffix must be one of .wav"),
        (["--text", "Hi", "--out", "reply.wav", "--reply", "text"], "--out is for spoken answers"),
        (["--audio", "a.wav", "--question", "Who?", "--out", "a.wav"], "--out is for spoken"),
    ],
)
def test_bad_requests_of_chat(run: Command, mini: Path, arguments: list[str], message: str) -> None:
    done = run("chat", "--model", mini, *arguments)
    assert (done.status, done.out) == (2, b"")
    assert len(done.errors) == 1
    assert message in done.errors[0]
