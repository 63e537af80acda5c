import gzip
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stepaudio.errors import StepAudioError
from stepaudio_recipes.config import load_config
from stepaudio_recipes.prepare import (
    PACKED_SPLITS,
    Config,
    PrepareOptions,
    main,
    pack_splits,
    prepare,
)
from stepaudio_recipes.synth import VoicePool

OPTIONS = PrepareOptions(hours=20 / 3600, jobs=2, shard_s=10.0)
SPLITS = (
    "train_real", "dev", "test_digits", "test_kathleen", "test_learners", "test_espeak", "synth",
    "noise", "rirs",
)  # fmt: skip


def _rows(out_dir: Path, name: str) -> list[dict]:
    path = out_dir / "manifests" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def out_dir(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pool = VoicePool(("espeak-ng",), ("f2", "m3"))
    monkeypatch.setattr("stepaudio_recipes.prepare.installed_voices", lambda: pool)
    folder = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    summaries = prepare(
        data_dir, folder, options=OPTIONS, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    assert {summary.name for summary in summaries} == set(SPLITS)
    return folder


def test_training_material_holds_no_held_out_sentence_speaker_or_voice(out_dir: Path) -> None:
    held_out = {
        row["text"]
        for name in ("test_kathleen", "test_learners", "test_espeak")
        for row in _rows(out_dir, name)
    }
    held_out |= {row["text"] for row in _rows(out_dir, "dev") if row["speaker"] != "lucas"}
    train = [*_rows(out_dir, "train_real"), *_rows(out_dir, "synth")]
    assert {row["text"] for row in train} & held_out == set()
    texts = gzip.decompress((out_dir / "texts.txt.gz").read_bytes()).decode().splitlines()
    assert len(texts) > 50
    assert set(texts) & held_out == set()
    raw = gzip.decompress((out_dir / "texts_raw.txt.gz").read_bytes()).decode().splitlines()
    assert "Oh, good." in raw
    test_speakers = {
        row["speaker"]
        for name in ("test_digits", "test_learners", "test_espeak")
        for row in _rows(out_dir, name)
    }
    assert not {row["speaker"] for row in train} & test_speakers


def test_test_sentences_take_turns_on_the_held_out_voices(out_dir: Path) -> None:
    rows = _rows(out_dir, "test_espeak")
    assert len(rows) == 60
    assert len({row["text"] for row in rows}) == 60
    speakers = [row["speaker"] for row in rows]
    assert {speakers.count(name) for name in set(speakers)} == {20}
    assert len(set(speakers)) == 3
    assert all(Path(row["audio_filepath"]).exists() for row in rows)


def test_preparing_again_gives_the_same_files(data_dir: Path, out_dir: Path) -> None:
    def contents() -> dict[str, bytes]:
        files = (path for path in sorted(out_dir.rglob("*")) if path.is_file())
        return {str(path.relative_to(out_dir)): path.read_bytes() for path in files}

    before = contents()
    prepare(data_dir, out_dir, options=OPTIONS, progress=lambda done, total: None)
    assert contents() == before


def test_folder_without_text_is_refused(data_dir: Path, tmp_path: Path) -> None:
    (data_dir / "text" / "topical_chat.jsonl.gz").unlink()
    with pytest.raises(StepAudioError, match="text"):
        prepare(data_dir, tmp_path / "out", options=OPTIONS, progress=lambda done, total: None)


@pytest.mark.parametrize("field", [{"hours": -1.0}, {"jobs": 0}, {"shard_s": 0.0}])
def test_options_out_of_range_are_refused(field: dict) -> None:
    with pytest.raises(ValueError, match="need hours"):
        PrepareOptions(**field)


def test_packed_rows_hold_the_same_samples_and_are_kept(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    wavs = [np.full(160 * (n + 1), 1000 * (n + 1), np.int16) for n in range(3)]
    lines = []
    for number, wav in enumerate(wavs):
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, wav, 16_000)
        row = {"audio_filepath": str(path), "text": f"t{number}", "duration": 0.01, "age": 9}
        lines.append(json.dumps(row))
    for name in PACKED_SPLITS:
        path = tmp_path / "manifests" / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pack_splits(tmp_path)
    rows = _rows(tmp_path, "dev.packed")
    shard = Path(rows[0]["audio_filepath"])
    samples = np.fromfile(shard, "<i2")
    for row, wav in zip(rows, wavs, strict=True):
        piece = samples[row["offset"] : row["offset"] + row["num_samples"]]
        assert np.abs(piece.astype(int) - wav).max() <= 1
        assert row["duration"] == len(wav) / 16_000
        assert row["age"] == 9
    written = shard.stat().st_mtime_ns
    pack_splits(tmp_path)
    assert shard.stat().st_mtime_ns == written


def test_recipe_reads_its_config_and_runs(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepaudio_recipes.prepare.PACKED_SPLITS", ())
    path = Path(str(files("stepaudio_recipes"))) / "configs" / "prepare" / "nano.yaml"
    overrides = [f"data={data_dir}", f"output_dir={tmp_path / 'out'}", "hours=0", "jobs=1"]
    sizes = {item.name: item.num_rows for item in main(load_config(Config, path, overrides))}
    assert sizes["test_espeak"] == 60
    assert sizes["synth"] == 0
