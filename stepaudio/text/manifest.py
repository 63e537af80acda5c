"""The one row schema of every manifest: JSON lines that name recordings and their words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepaudio.atomic import write_text_atomic
from stepaudio.errors import StepAudioError


@dataclass(frozen=True)
class ManifestRow:
    """One recording, or one stretch of a shard of raw samples.

    Attributes:
        audio_filepath: the recording. Relative paths in a file are relative to its folder; rows
            that were read hold absolute ones.
        text: what is said; empty if nothing is, or if it is not known.
        duration: in seconds.
        language: code such as "en"; empty if it does not matter.
        speaker: who speaks; empty if unknown.
        source: where the recording comes from.
        license: under which terms.
        offset: first sample, if the file is a shard of raw little-endian int16 at 16 kHz.
        num_samples: number of samples in such a shard; None for an audio file.
        extra: all other fields of the row.
    """

    audio_filepath: str
    text: str
    duration: float
    language: str = ""
    speaker: str = ""
    source: str = ""
    license: str = ""
    offset: int | None = None
    num_samples: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


_REQUIRED = ("audio_filepath", "text", "duration")
_COUNTS = ("offset", "num_samples")
_STRINGS = ("audio_filepath", "text", "language", "speaker", "source", "license")
_FIELDS = (*_STRINGS, "duration", *_COUNTS)


def _parse_row(line: str) -> ManifestRow:
    """Read one line; ValueError says what is wrong with it."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(values, dict):
        raise ValueError(f"not a JSON object but {line.strip()[:40]!r}")
    for name in _REQUIRED:
        if values.get(name) is None:
            raise ValueError(f"field {name!r} is missing")
    known = {name: values.pop(name) for name in _FIELDS if values.get(name) is not None}
    for name in _FIELDS:
        values.pop(name, None)  # null means absent
    for name in _STRINGS:
        if not isinstance(known.get(name, ""), str):
            raise ValueError(f"field {name!r} must be a string, got {known[name]!r}")
    duration = known["duration"]
    is_number = isinstance(duration, int | float) and not isinstance(duration, bool)
    if not is_number or not 0 <= duration < float("inf"):
        raise ValueError(f"field 'duration' must be a number of seconds, got {duration!r}")
    for name in _COUNTS:
        count = known.get(name, 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"field {name!r} must be a number of samples, got {count!r}")
    if not known["audio_filepath"]:
        raise ValueError("field 'audio_filepath' is empty")
    return ManifestRow(**known | {"duration": float(duration)}, extra=values)


def read_manifest(path: str | Path) -> list[ManifestRow]:
    """Read a manifest. Empty lines are passed over; whether the audio exists is not checked.

    Raises:
        StepAudioError: the file cannot be read, or a row is not valid; names file, line and field.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise StepAudioError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StepAudioError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    folder = path.absolute().parent
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _parse_row(line)
        except ValueError as error:
            raise StepAudioError(f"{path}, line {number}: {error}") from error
        rows.append(dataclasses.replace(row, audio_filepath=str(folder / row.audio_filepath)))
    return rows


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest atomically: paths as they are in the rows, fields without a value left out.

    Raises:
        OutputError: no permission, no space, or no such folder.
    """
    lines = []
    for row in rows:
        values = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
        extra = values.pop("extra")
        kept = {
            name: value
            for name, value in values.items()
            if name in _REQUIRED or value not in ("", None)
        }
        lines.append(json.dumps(kept | dict(extra), ensure_ascii=False) + "\n")
    write_text_atomic(path, "".join(lines))
