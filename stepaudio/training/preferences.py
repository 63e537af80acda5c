"""Which of two spoken takes people preferred: JSON lines, with the takes' audio files beside them.

A dataset is a folder::

    preferences.jsonl    a line for each decision
    audio/               the takes, each named by a hash of its sound

It is written while people listen and is read by preference training. Writers only ever append,
under a lock, so any number of programs may write at the same time; a later line about the same
two takes corrects an earlier one.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal

from stepaudio.atomic import write_bytes_atomic
from stepaudio.errors import OutputError, StepAudioError

FORMAT_VERSION = 1
PREFERENCE_FILE = "preferences.jsonl"
AUDIO_FOLDER = "audio"

Winner = Literal["a", "b"]

_NAME_BYTES = 12
_BLOCK_BYTES = 1 << 16
_PROMPT_STRINGS = ("text", "voice", "voice_filepath", "instruction")
_ROW_FIELDS = {"format_version", *_PROMPT_STRINGS, "speed", "a", "b", "winner", "model", "time"}
_TAKE_FIELDS = {"audio_filepath", "duration", "seed", "codes"}


@dataclass(frozen=True)
class PreferencePrompt:
    """What was to be said, and how.

    Attributes:
        text: as the user wrote it.
        voice: name of a voice; empty: the default one, or that of `voice_filepath`.
        voice_filepath: recording whose voice was to speak; empty: a named voice.
        instruction: style such as "slowly"; empty: none.
        speed: wanted speed, 1.0 is normal.
    """

    text: str
    voice: str = ""
    voice_filepath: str = ""
    instruction: str = ""
    speed: float = 1.0


@dataclass(frozen=True)
class PreferenceTake:
    """One way in which it was said.

    Attributes:
        audio_filepath: its sound. Relative paths in a file are relative to its folder; rows that
            were read hold absolute ones.
        duration: in seconds.
        seed: it was sampled with; None: unknown.
        codes: its audio codes, 25 a second; None: unknown.
    """

    audio_filepath: str
    duration: float
    seed: int | None = None
    codes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PreferenceRow:
    """One decision between two takes.

    Attributes:
        prompt: what was to be said.
        a: the first take.
        b: the second one.
        winner: which one is better.
        model: what spoke, as the user named it.
        time: of the decision, ISO 8601 with its offset from UTC.
    """

    prompt: PreferencePrompt
    a: PreferenceTake
    b: PreferenceTake
    winner: Winner
    model: str
    time: str

    @property
    def takes(self) -> frozenset[str]:
        """The files of both takes, in whatever order they were heard."""
        return frozenset((self.a.audio_filepath, self.b.audio_filepath))


@dataclass(frozen=True)
class PreferencePair:
    """What preference training reads: a prompt, the better take, the worse one."""

    prompt: PreferencePrompt
    chosen: PreferenceTake
    rejected: PreferenceTake


# ---- reading -------------------------------------------------------------------------------------


def read_preferences(source: str | Path) -> list[PreferenceRow]:
    """Read all decisions in the order in which they were made; empty lines are passed over.

    Args:
        source: folder of the dataset, or its file. Whether the audio exists is not checked.

    Raises:
        StepAudioError: the file cannot be read, or a row is not valid; names file, line and field.
    """
    path = _file_of(source)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StepAudioError(f"{path}: cannot be read: {error.strerror}") from error
    folder = path.absolute().parent
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_parse_row(line, folder))
        except ValueError as error:
            raise StepAudioError(f"{path}, line {number}: {error}") from error
    return rows


def load_preference_pairs(source: str | Path, *, with_codes: bool = False) -> list[PreferencePair]:
    """Read a dataset for preference training: of decisions about the same takes the last counts.

    Args:
        source: as `read_preferences`.
        with_codes: leave out pairs whose audio codes are not known. They are those that came from
            a server; the sound can be encoded again.

    Raises:
        StepAudioError: as `read_preferences`; or the audio of a pair is missing.
    """
    path = _file_of(source)
    last: dict[tuple[PreferencePrompt, frozenset[str]], PreferenceRow] = {}
    for row in read_preferences(path):
        key = (row.prompt, row.takes)
        last.pop(key, None)  # so that a correction also moves to its place in time
        last[key] = row
    pairs = []
    for row in last.values():
        chosen, rejected = (row.a, row.b) if row.winner == "a" else (row.b, row.a)
        if with_codes and (chosen.codes is None or rejected.codes is None):
            continue
        for file in filter(None, (*sorted(row.takes), row.prompt.voice_filepath)):
            if not Path(file).is_file():
                raise StepAudioError(
                    f"{file}: missing, but {path} names it; copy the whole folder, "
                    f"{AUDIO_FOLDER}/ included"
                )
        pairs.append(PreferencePair(row.prompt, chosen, rejected))
    return pairs


def _file_of(source: str | Path) -> Path:
    path = Path(source)
    return path / PREFERENCE_FILE if path.is_dir() else path


def _parse_row(line: bytes, folder: Path) -> PreferenceRow:
    """Read one line; ValueError says what is wrong with it."""
    try:
        values = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(values, dict):
        raise ValueError(f"not a JSON object but {line.strip()[:40]!r}")
    version = values.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ValueError(
            f"field 'format_version' is {version!r}, this version of stepaudio reads "
            f"{FORMAT_VERSION}"
        )
    _check_names(values, _ROW_FIELDS, required=("text", "a", "b", "winner", "model", "time"))
    strings = {name: _string(values.get(name, ""), name) for name in _PROMPT_STRINGS}
    if strings["voice_filepath"]:
        strings["voice_filepath"] = str(folder / strings["voice_filepath"])
    speed = _number(values.get("speed", 1.0), "speed")
    if not speed:
        raise ValueError("field 'speed' must be more than 0")
    prompt = PreferencePrompt(**strings, speed=speed)
    a, b = _take(values["a"], "a", folder), _take(values["b"], "b", folder)
    winner = values["winner"]
    if winner not in ("a", "b"):
        raise ValueError(f"field 'winner' must be 'a' or 'b', got {winner!r}")
    model, time = _string(values["model"], "model"), _string(values["time"], "time")
    row = PreferenceRow(prompt, a, b, winner, model, time)
    _check(row)
    return row


def _check(row: PreferenceRow) -> None:
    """What has to hold for any row; ValueError says what does not."""
    if not row.prompt.text.strip():
        raise ValueError("field 'text' is empty")
    if len(row.takes) == 1:
        raise ValueError(f"both takes are {row.a.audio_filepath}")
    try:
        moment = datetime.fromisoformat(row.time)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"field 'time' must be ISO 8601 with an offset, got {row.time!r}")


def _take(values: Any, name: str, folder: Path) -> PreferenceTake:
    if not isinstance(values, dict):
        raise ValueError(f"field {name!r} must be an object, got {values!r}")
    try:
        _check_names(values, _TAKE_FIELDS, required=("audio_filepath", "duration"))
        file = _string(values["audio_filepath"], "audio_filepath")
        if not file:
            raise ValueError("field 'audio_filepath' is empty")
        duration = _number(values["duration"], "duration")
        seed, codes = values.get("seed"), values.get("codes")
        if seed is not None:
            _count(seed, "seed")
        if codes is not None:
            if not isinstance(codes, list):
                raise ValueError(f"field 'codes' must be a list, got {codes!r}")
            codes = tuple(_count(code, "codes") for code in codes)
    except ValueError as error:
        raise ValueError(f"take {name!r}: {error}") from error
    return PreferenceTake(str(folder / file), duration, seed, codes)


def _check_names(values: Mapping[str, Any], known: set[str], required: Sequence[str]) -> None:
    for name in required:
        if values.get(name) is None:
            raise ValueError(f"field {name!r} is missing")
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} must be a string, got {value!r}")
    return value


def _number(value: Any, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ValueError(f"field {name!r} must be a number from 0 on, got {value!r}")
    return float(value)


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"field {name!r} must be whole numbers from 0 on, got {value!r}")
    return value


# ---- writing -------------------------------------------------------------------------------------


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
    _check(row)
    path = Path(folder) / PREFERENCE_FILE
    line = (json.dumps(_values(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
    _parse_row(line, Path(folder))
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
