"""The embedded model through the installed command, on the recordings that ship with it."""

from pathlib import Path

import pytest

from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.text.normalize import get_normalizer
from stepaudio.text.wer import word_error_rate

# Word error rate that nano must not exceed on examples/audio; the model card says what it reaches.
WER_CEILING = 0.40


@pytest.fixture(scope="module")
def rows(examples) -> list[ManifestRow]:
    return read_manifest(examples / "manifest.jsonl")


@pytest.fixture(scope="module")
def transcripts(run_installed, examples, tmp_path_factory):
    silence = tmp_path_factory.mktemp("silence")
    make_quiet_files(silence)
    done = run_installed("asr", examples, silence, "--format", "json", "--jobs", "2")
    assert (done.status, done.errors) == (0, [])
    return {Path(values["file"]).name: values for values in done.objects}


def make_quiet_files(folder: Path) -> None:
    import numpy as np
    import soundfile

    noise = np.random.default_rng(0).normal(0, 0.02, 6 * 16_000)
    hum = 0.05 * np.sin(2 * np.pi * 50 * np.arange(6 * 16_000) / 16_000)
    for name, sound in (("silence", 0 * noise), ("noise", noise), ("hum", hum)):
        soundfile.write(folder / f"{name}.flac", sound, 16_000)


def test_every_recording_is_transcribed(rows, transcripts):
    assert len(rows) >= 6
    for row in rows:
        values = transcripts[Path(row.audio_filepath).name]
        assert values["model"] == "nano"
        assert values["language"] == "en"
        assert values["duration_s"] == pytest.approx(row.duration, abs=0.05)


def test_word_error_rate(rows, transcripts):
    texts = [transcripts[Path(row.audio_filepath).name]["text"] for row in rows]
    clean = get_normalizer("en").for_scoring
    rate = word_error_rate([clean(row.text) for row in rows], [clean(text) for text in texts])
    assert rate.words > 100
    assert rate.rate <= WER_CEILING, list(zip([row.text for row in rows], texts, strict=True))


def test_texts_are_lower_case_without_punctuation(rows, transcripts):
    for values in transcripts.values():
        assert set(values["text"]) <= set(" 'abcdefghijklmnopqrstuvwxyz"), values


@pytest.mark.parametrize("name", ["silence", "noise", "hum"])
def test_nothing_is_heard_where_nobody_speaks(transcripts, name):
    assert transcripts[f"{name}.flac"]["text"] == ""
    assert transcripts[f"{name}.flac"]["segments"] == []


def test_long_recording_has_segments_in_order(rows, transcripts):
    longest = max(rows, key=lambda row: row.duration)
    segments = transcripts[Path(longest.audio_filepath).name]["segments"]
    assert len(segments) > 1
    bounds = [time for segment in segments for time in (segment["start"], segment["end"])]
    assert bounds == sorted(bounds)
    assert 0 <= bounds[0] and bounds[-1] <= longest.duration + 0.01


def test_table_as_in_the_demo(run, examples, rows):
    done = run("asr", examples, "--format", "table")
    assert (done.status, done.errors) == (0, [])
    header, *body, footer = done.lines
    assert header.split() == ["file", "seconds", "rtf", "text"]
    assert footer.startswith(f"{len(rows)} files")
    assert [line.split()[0] for line in body] == sorted(row.audio_filepath for row in rows)
    for line in body:
        file, seconds, rtf, *text = line.split()
        assert Path(file).is_file() and float(seconds) > 0 and float(rtf) > 0 and text


def test_word_timestamps(run, examples):
    file = examples / "us_female_2.ogg"
    done = run("asr", file, "--format", "json", "--word-timestamps")
    assert (done.status, done.errors) == (0, [])
    (segment,) = done.objects[0]["segments"]
    words = segment["words"]
    assert " ".join(word["word"] for word in words) == segment["text"]
    times = [time for word in words for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert segment["start"] <= times[0] and times[-1] <= segment["end"]
    assert all(0 <= word["confidence"] <= 1 for word in words)


def test_greedy_decoding_is_another_way(run, examples):
    done = run("asr", examples / "us_female_2.ogg", "--format", "json", "--decoding", "greedy")
    assert (done.status, done.errors) == (0, [])
    # One pass for each token: the decoder writes by itself.
    assert done.objects[0]["passes"] == done.objects[0]["tokens"] - 1


def test_listed_with_its_folder(run):
    done = run("models")
    assert done.status == 0
    (line,) = [line for line in done.lines if line.startswith("nano ")]
    folder = Path(line.split()[2])
    assert (folder / "config.json").is_file()
