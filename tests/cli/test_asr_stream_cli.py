"""``stepaudio asr --stream`` on a real recording with nano; hotwords, figures and full stops."""

import io
import json
import sys

import numpy as np
import pytest
import soundfile

from stepaudio.audio.io import load_audio
from stepaudio.cli import main


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run_main(*arguments, stdin: bytes = b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        status = main(["asr", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_main


@pytest.fixture(scope="module")
def recording(examples):
    return examples / "us_female_2.ogg"


@pytest.fixture(scope="module")
def samples(recording):
    return load_audio(recording).samples.numpy()


def test_a_file_and_pipes_give_the_same_text(call, recording, samples):
    status, text, errors = call("--stream", recording)
    assert (status, errors) == (0, "")
    assert text.endswith("\n") and len(text.split()) > 5
    wav = io.BytesIO()
    soundfile.write(wav, samples, 16_000, subtype="PCM_16", format="WAV")
    assert call("--stream", "-", stdin=wav.getvalue()) == (0, text, "")
    pcm = (samples * 32767).astype("<i2").tobytes()
    assert call("--stream", "-", "--pcm-rate", "16000", stdin=pcm) == (0, text, "")


def test_json_lines(call, recording):
    status, out, _ = call("--stream", recording, "--format", "json", "--stats")
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    kinds = [line["type"] for line in lines]
    assert set(kinds) == {"partial", "confirmed", "segment", "end"}
    (segment,) = [line for line in lines if line["type"] == "segment"]
    confirmed = [line["text"] for line in lines if line["type"] == "confirmed"]
    assert " ".join(confirmed) == segment["text"]
    assert [word["word"] for word in segment["words"]] == segment["text"].split()
    assert lines[-1]["confirmed_after_s"]["median"] >= 0
    assert lines[-1]["tokens"] > 0 and lines[-1]["rtf"] > 0


def test_silence_gives_nothing(call):
    assert call("--stream", "-", "--pcm-rate", "8000", stdin=bytes(64_000)) == (0, "", "")
    noise = np.random.default_rng(0).normal(0, 300, 80_000).astype("<i2").tobytes()
    assert call("--stream", "-", "--pcm-rate", "16000", stdin=noise) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "a.wav", "b.wav"], "one recording or -"),
        (["--stream", "a.wav", "--format", "srt"], "writes text or json"),
        (["--stream", "a.wav", "--output-dir", "out"], "writes text or json"),
        (["--stream", "a.wav", "--pcm-rate", "8000"], "standard input"),
        (["--stream", "a.wav", "--itn"], "--stream has no --itn"),
        (["a.wav", "--hotwords", "./gone.txt"], "./gone.txt: the hotwords cannot be read"),
        (["a.wav", "--hotwords", "x", "--hotword-strength", "9"], "must lie between 0 and 5"),
        (["a.wav", "--itn", "--model", "dir", "--language", "zh"], "know English only, not zh"),
    ],
)
def test_options_that_do_not_fit(call, arguments, message):
    status, out, errors = call(*arguments)
    assert (status, out) == (2, "")
    assert errors.startswith("stepaudio: ") and message in errors
    assert errors.count("\n") == 1


def test_what_is_no_sound(call):
    status, out, errors = call("--stream", "-", stdin=b"certainly no sound")
    assert (status, out) == (1, "")
    assert errors.startswith("stepaudio: -: no WAV file") and errors.count("\n") == 1


def test_hotwords_and_written_form(call, recording, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("# what somebody may have\nsuperiors\n")
    status, out, errors = call(recording, "--hotwords", names, "--punctuate", "--itn")
    assert (status, errors) == (0, "")
    assert out[0].isupper() and out.endswith(".\n")
    assert "superiors" in out
