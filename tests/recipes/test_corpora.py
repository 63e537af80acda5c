from pathlib import Path

import pytest

from stepaudio.errors import StepAudioError
from stepaudio_recipes.corpora import (
    format_summaries,
    noise_rows,
    rir_rows,
    split_corpora,
    summarize,
    write_manifest,
)


def test_digits_are_held_out_by_speaker(data_dir: Path) -> None:
    rows = split_corpora(data_dir).rows
    assert {row["speaker"] for row in rows["test_digits"]} == {"theo"}
    assert len(rows["test_digits"]) == 500
    assert all(row["speaker"] != "theo" for row in [*rows["train_real"], *rows["dev"]])
    assert sum(row["speaker"] == "lucas" for row in rows["dev"]) == 40
    assert sum(row["speaker"] == "lucas" for row in rows["train_real"]) == 460


def test_single_speaker_is_held_out_by_sentence_with_all_takes(data_dir: Path) -> None:
    rows = split_corpora(data_dir).rows
    test = [row["text"] for row in rows["test_kathleen"]]
    dev = [row["text"] for row in rows["dev"] if row["speaker"] == "kathleen"]
    train = {row["text"] for row in rows["train_real"]}
    assert (len(test), len(dev)) == (60, 20)
    assert len({*test, *dev}) == 80
    assert not train & {*test, *dev}


def test_learners_are_held_out_by_speaker_and_sentence(data_dir: Path) -> None:
    rows = split_corpora(data_dir).rows
    test = rows["test_learners"]
    test_speakers = {row["speaker"] for row in test}
    children = {row["speaker"] for row in test if row["age"] < 15}
    assert (len(test_speakers), len(children)) == (20, 10)
    assert all(int(speaker) % 2 == 0 for speaker in test_speakers), "only of the test split"
    dev_speakers = {row["speaker"] for row in rows["dev"]} - {"lucas", "kathleen"}
    assert len(dev_speakers) == 8
    train = rows["train_real"]
    assert not {row["speaker"] for row in train} & (test_speakers | dev_speakers)
    assert not {row["text"] for row in train} & {row["text"] for row in test}


def test_every_held_out_sentence_is_reported(data_dir: Path) -> None:
    splits = split_corpora(data_dir)
    for name in ("test_kathleen", "test_learners"):
        assert {row["text"] for row in splits.rows[name]} <= splits.held_out
    assert "seven" not in splits.held_out, "digits are held out by speaker only"


def test_rows_have_the_schema_absolute_paths_and_the_training_form(data_dir: Path) -> None:
    for row in split_corpora(data_dir).rows["train_real"]:
        assert Path(row["audio_filepath"]).is_absolute()
        assert {"text", "duration", "language", "speaker", "source", "license"} <= set(row)
        assert row["text"] == row["text"].lower()
        assert not any(char.isdigit() for char in row["text"])
        assert not any(key.startswith("_") for key in row)


def test_splits_depend_on_the_seed_only(data_dir: Path) -> None:
    assert split_corpora(data_dir, seed=1) == split_corpora(data_dir, seed=1)
    assert split_corpora(data_dir, seed=1) != split_corpora(data_dir, seed=2)


def test_noise_and_room_responses(data_dir: Path) -> None:
    assert [Path(row["audio_filepath"]).name for row in noise_rows(data_dir)] == [
        "rain.ogg", "n.flac",
    ]  # fmt: skip
    assert [Path(row["audio_filepath"]).name for row in rir_rows(data_dir)] == ["r.flac"]


def test_missing_manifest_is_named(data_dir: Path) -> None:
    (data_dir / "manifests" / "fsdd.jsonl").unlink()
    with pytest.raises(StepAudioError, match=r"fsdd\.jsonl"):
        split_corpora(data_dir)


def test_broken_line_and_missing_field_are_named(data_dir: Path) -> None:
    path = data_dir / "manifests" / "fsdd.jsonl"
    path.write_text("{not json\n", encoding="utf-8")
    with pytest.raises(StepAudioError, match="line 1"):
        split_corpora(data_dir)
    path.write_text('{"audio_filepath": "a.ogg", "text": "one"}\n', encoding="utf-8")
    with pytest.raises(StepAudioError, match="duration"):
        split_corpora(data_dir)


def test_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_manifest(path, [{"text": "old"}])
    with pytest.raises(TypeError):
        write_manifest(path, [{"text": "new"}, {"text": object()}])
    assert path.read_text() == '{"text": "old"}\n'


def test_summary_counts_rows_hours_and_speakers() -> None:
    rows = [{"duration": 1800.0, "speaker": name} for name in ("a", "b", "a")]
    summary = summarize("dev", rows)
    assert (summary.num_rows, summary.hours, summary.num_speakers) == (3, 1.5, 2)
    assert "1.500" in format_summaries([summary])
