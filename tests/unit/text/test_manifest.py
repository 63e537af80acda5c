import json
from pathlib import Path

import pytest

from stepaudio.errors import OutputError, StepAudioError
from stepaudio.text.manifest import ManifestRow, read_manifest, write_manifest

GOOD = {"audio_filepath": "a.wav", "text": "hi", "duration": 1.5}


def write_lines(path: Path, *rows: object) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_round_trip(tmp_path: Path) -> None:
    rows = [
        ManifestRow(str(tmp_path / "a.wav"), "ein \u2028 \u00fc", 1.5, "de", "me", "x", "CC0-1.0"),
        ManifestRow(str(tmp_path / "b.pcm"), "", 0.0, offset=0, num_samples=16, extra={"age": 3}),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert read_manifest(tmp_path / "m.jsonl") == rows
    second = json.loads((tmp_path / "m.jsonl").read_text().splitlines()[-1])
    assert second == {
        "audio_filepath": str(tmp_path / "b.pcm"), "text": "", "duration": 0.0, "offset": 0,
        "num_samples": 16, "age": 3,
    }  # fmt: skip


def test_paths_are_relative_to_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "m.jsonl", GOOD, "", {**GOOD, "audio_filepath": "/x/b.wav"})
    monkeypatch.chdir(tmp_path)
    rows = read_manifest("m.jsonl")
    assert [row.audio_filepath for row in rows] == [str(tmp_path / "a.wav"), "/x/b.wav"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"text": "", "duration": 1}, "field 'audio_filepath' is missing"),
        ({**GOOD, "text": None}, "field 'text' is missing"),
        ({**GOOD, "text": 3}, "field 'text' must be a string, got 3"),
        ({**GOOD, "speaker": 7}, "field 'speaker' must be a string"),
        ({**GOOD, "duration": "1"}, "field 'duration' must be a number"),
        ({**GOOD, "duration": -1}, "field 'duration' must be a number"),
        ({**GOOD, "duration": True}, "field 'duration' must be a number"),
        ({**GOOD, "num_samples": 1.5}, "field 'num_samples' must be a number of samples"),
        ({**GOOD, "audio_filepath": ""}, "field 'audio_filepath' is empty"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    path = write_lines(tmp_path / "m.jsonl", GOOD, row)
    with pytest.raises(StepAudioError) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}, line 2: {message}")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(StepAudioError, match="cannot be read"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff")
    with pytest.raises(StepAudioError, match="not UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")
    with pytest.raises(OutputError, match="no folder"):
        write_manifest(tmp_path / "none" / "m.jsonl", [])
