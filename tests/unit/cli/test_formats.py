import json

import pytest

from stepaudio.cli.formats import Result, Table, render, stats_line, to_json
from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.transcript import Segment, Transcript

STATS = GenerationStats(1.5, 0.25, 0.125, 0.5, 40, 9, 8)
TRANSCRIPT = Transcript("good day", (Segment(0.32, 1.82, "good day"),), 2.5, STATS, 0.125)
LONG = " ".join(["word"] * 40)


def result(file="a.wav", transcript=TRANSCRIPT) -> Result:
    return Result(file, transcript, "nano", "en")


def test_json_schema():
    line = to_json(result())
    assert line.endswith("\n") and line.count("\n") == 1
    assert json.loads(line) == {
        "file": "a.wav",
        "text": "good day",
        "duration_s": 2.5,
        "segments": [{"start": 0.32, "end": 1.82, "text": "good day"}],
        "rtf": 0.4,
        "model": "nano",
        "language": "en",
        "speech_s": 1.5,
        "prompt_tokens": 40,
        "tokens": 9,
        "passes": 8,
        "read_s": 0.125,
        "encode_s": 0.25,
        "prefill_s": 0.125,
        "decode_s": 0.5,
    }


def test_json_with_statistics():
    stats = GenerationStats(1.5, 0.25, 0.125, 0.5, 40, 9, 4, [3, 1])
    transcript = Transcript("good day", (), 2.5, stats, 0.125)
    expected = {
        "passes": 4,
        "tokens": 9,
        "mean_accepted": 2.0,
        "prefix_acceptance": [0.75, 0.25],
        "encode_ms": 250.0,
        "decode_ms": 500.0,
    }
    values = json.loads(to_json(Result("a.wav", transcript, "nano", "en", with_stats=True)))
    assert {name: values[name] for name in expected} == expected
    assert json.loads(stats_line(result("a.wav", transcript))) == {"file": "a.wav"} | expected
    assert stats_line(result("a\udce9.wav")).isascii()


def test_json_of_any_file_name():
    assert '"file": "你好.wav"' in to_json(result("你好.wav"))
    not_utf8 = b"caf\xe9\n.wav".decode("utf-8", "surrogateescape")
    line = to_json(result(not_utf8))
    line.encode()
    assert json.loads(line)["file"] == not_utf8


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text", "good day\n"),
        ("srt", "1\n00:00:00,320 --> 00:00:01,820\ngood day\n"),
        ("vtt", "WEBVTT\n\n00:00:00.320 --> 00:00:01.820\ngood day\n"),
    ],
)
def test_render(kind, content):
    assert render(kind, result()) == content


def test_silence():
    silence = result(transcript=Transcript("", (), 2.5))
    assert render("text", silence) == "\n"
    assert render("srt", silence) == ""
    assert json.loads(render("json", silence))["segments"] == []


def test_table_outside_a_terminal_cuts_nothing():
    files = ["a.wav", "f" * 200 + ".wav"]
    table = Table(files, None)
    assert table.header().split() == ["file", "seconds", "rtf", "text"]
    for file in files:
        assert table.row(result(file)).split() == [file, "2.5", "0.400", "good", "day"]
    long = table.row(result(transcript=Transcript(LONG, (), 2.5)))
    assert long.endswith(f"{LONG}\n") and long.count("\n") == 1
    assert table.footer().split() == ["3", "files", "7.5", "0.267"]


@pytest.mark.parametrize("width", [40, 80, 132])
def test_table_fits_the_terminal(width):
    file = "部分/" + "d" * 50 + "/talk.wav"
    table = Table([file], width)
    lines = table.row(result(file, Transcript(LONG, (), 2.5))).splitlines()
    texts = [line.rsplit("  ", 1)[1] for line in lines]
    assert " ".join(texts) == LONG
    assert all(len(line) <= max(width, 60) for line in lines)
    assert lines[0].startswith("…") and "talk.wav" in lines[0]
    assert len({len(line) - len(text) for line, text in zip(lines, texts, strict=True)}) == 1


def test_table_columns_align_under_wide_characters():
    files = ["你好.wav", "ab.wav", "abcdefgh.wav"]
    table = Table(files, None)
    rows = [table.row(result(file)) for file in files]
    # Two ideographs take as much room as four letters.
    assert len(rows[0]) + 2 == len(rows[1]) == len(rows[2])
