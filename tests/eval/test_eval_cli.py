"""`stepaudio-eval` as a user runs it: real recordings, a peer in the same run, a report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepaudio.text.manifest import read_manifest
from stepaudio_eval.asr import SystemScore, evaluate
from stepaudio_eval.cli import main

COMMAND = Path(sys.executable).parent / "stepaudio-eval"


class Parrot:
    """Says the right words, but for the first recording."""

    name = "parrot"

    def __init__(self, texts):
        self._texts = texts

    def recognize(self, wavs):
        assert all(wav.dim() == 1 for wav in wavs)
        return ["wrong", *self._texts[1 : len(wavs)]]


def test_scores_count_words_and_errors(examples):
    rows = read_manifest(examples / "manifest.jsonl")
    (score,) = evaluate([Parrot([row.text for row in rows])], examples / "manifest.jsonl", limit=3)
    assert score.num_rows == 3
    assert score.words == sum(len(row.text.split()) for row in rows[:3])
    assert score.errors == len(rows[0].text.split())
    assert score.wer == pytest.approx(score.errors / score.words)
    assert score.audio_s == pytest.approx(sum(row.duration for row in rows[:3]), abs=0.02)


def test_empty_scores_have_rates():
    score = SystemScore("x", "m", 0, 0.0, 0, 0, 0.0, ())
    assert score.wer == score.rtf == 0.0


def test_command_writes_a_report(examples, tmp_path):
    report = tmp_path / "report.json"
    result = subprocess.run(
        [COMMAND, "asr", examples / "manifest.jsonl", "--against", "pocketsphinx",
         "--limit", "6", "--output", report, "--device", "cpu"],  # all but the long one
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    scores = json.loads(report.read_text())["scores"]
    assert [score["system"] for score in scores] == ["nano", "pocketsphinx"]
    assert all(len(score["texts"]) == 6 and score["seconds"] > 0 for score in scores)
    assert result.stdout.count("manifest.jsonl") == 2


def test_bad_input_is_one_line(tmp_path):
    missing = tmp_path / "none.jsonl"
    result = subprocess.run([COMMAND, "asr", missing], capture_output=True, text=True, timeout=240)
    assert result.returncode == 1
    assert result.stderr.startswith("stepaudio-eval: ")
    assert str(missing) in result.stderr
    assert "Traceback" not in result.stderr


def test_speech_is_made_judged_and_reported(examples, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("stepaudio_eval.speech.mean_opinion", lambda heard: None)  # slow
    report, audio = tmp_path / "report.json", tmp_path / "audio"
    asked = ["speech", examples / "manifest.jsonl", "--limit", "1", "--takes", "2", "--kinds"]
    asked += ["natural", "tts", "--recognizers", "nano", "--device", "cpu"]
    assert main([*map(str, asked), "--output", str(report), "--audio", str(audio)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[:3]] == ["kind", "natural", "tts"]
    natural, tts = json.loads(report.read_text())["scores"]
    assert natural["rtf"] == 0 < tts["rtf"]
    assert natural["wer"]["nano"] < 0.5
    assert tts["num_rows"] == 1
    assert 0 < tts["codebook_use"] < 1
    assert len(list(audio.rglob("*.wav"))) == 2
    with pytest.raises(SystemExit):
        main(["speech", str(examples / "manifest.jsonl"), "--takes", "0"])
    assert "must be at least 1, got 0" in capsys.readouterr().err
