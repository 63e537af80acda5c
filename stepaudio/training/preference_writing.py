"""Appends decisions to a preference dataset, safely beside other writers; see `preferences`."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from stepaudio.atomic import write_bytes_atomic
from stepaudio.errors import OutputError
from stepaudio.training.preferences import (
    AUDIO_FOLDER,
    FORMAT_VERSION,
    PREFERENCE_FILE,
    PreferenceRow,
    check_row,
    parse_row,
)

_NAME_BYTES = 12
_BLOCK_BYTES = 1 << 16


def store_audio(folder: str | Path, data: bytes, suffix: str) -> str:
    """Put the sound of a take, or the recording of a voice, into a dataset.

    Args:
        folder: of the dataset; made if needed.
        data: an encoded audio file.
        suffix: of its name, such as ".flac".

    Returns:
        Path relative to the folder. The same bytes are stored once.

    Raises:
        OutputError: the file cannot be written.
    """
    name = f"{blake2b(data, digest_size=_NAME_BYTES).hexdigest()}{suffix}"
    target = Path(folder) / AUDIO_FOLDER
    _make_folder(target)
    if not (target / name).is_file():
        write_bytes_atomic(target / name, data)
    return f"{AUDIO_FOLDER}/{name}"


def append_preference(folder: str | Path, row: PreferenceRow) -> Path:
    """Add a decision; returns the file.

    The line is either there as a whole or not at all, also if the disk is full or if several
    programs write at once. What a killed writer left behind of its line is removed.

    Args:
        folder: of the dataset; made if needed.
        row: with audio files as `store_audio` returns them, or anywhere else.

    Raises:
        OutputError: the file cannot be written.
        ValueError: the row is not valid.
    """
    check_row(row)
    path = Path(folder) / PREFERENCE_FILE
    line = (json.dumps(_values(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
    parse_row(line, Path(folder))
    _make_folder(path.parent)
    try:
        with open(path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the end of the file may not move meanwhile
            _append(file, line)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_reason(error)}") from error
    return path


def _append(file: BinaryIO, line: bytes) -> None:
    size = _sound_size(file)
    try:
        file.truncate(size)
        if size and _byte_before(file, size) != b"\n":
            line = b"\n" + line
        done = 0
        while done < len(line):
            done += file.write(line[done:])
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def _sound_size(file: BinaryIO) -> int:
    """Size of the file without a last line that was cut off."""
    size = file.seek(0, os.SEEK_END)
    tail, start = b"", size
    while start and b"\n" not in tail:
        start = max(0, start - _BLOCK_BYTES)
        file.seek(start)
        tail = file.read(size - start)
    line = tail[tail.rfind(b"\n") + 1 :]
    try:
        json.loads(line)  # a whole row whose line end was lost, by an editor for example
    except ValueError:
        return size - len(line)
    return size


def _byte_before(file: BinaryIO, position: int) -> bytes:
    file.seek(position - 1)
    return file.read(1)


def _values(row: PreferenceRow) -> dict[str, Any]:
    """Fields of a line; those without a value are left out."""
    prompt = {k: v for k, v in dataclasses.asdict(row.prompt).items() if v != "" or k == "text"}
    takes = {
        name: {k: v for k, v in dataclasses.asdict(take).items() if v is not None}
        for name, take in (("a", row.a), ("b", row.b))
    }
    head = {"format_version": FORMAT_VERSION}
    return head | prompt | takes | {"winner": row.winner, "model": row.model, "time": row.time}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
