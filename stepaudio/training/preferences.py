"""Which of two spoken takes people preferred: JSON lines, with the takes' audio files beside them.

A dataset is a folder::

    preferences.jsonl    a line for each decision
    audio/               the takes, each named by a hash of its sound

It is written while people listen and is read by preference training. Writers only ever append,
under a lock (`preference_writing`), so any number of programs may write at the same time; a later
line about the same two takes corrects an earlier one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from stepaudio.errors import StepAudioError

FORMAT_VERSION = 1
PREFERENCE_FILE = "preferences.jsonl"
AUDIO_FOLDER = "audio"

Winner = Literal["a", "b"]

_PROMPT_STRINGS = ("text", "voice", "voice_filepath", "instruction")
_ROW_FIELDS = {"format_version", *_PROMPT_STRINGS, "speed", "a", "b", "winner", "model", "time"}
_TAKE_FIELDS = {"audio_filepath", "duration", "seed", "sentences"}
_SENTENCE_FIELDS = {"text", "codes"}


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
class TakeSentence:
    """A sentence of a take: one completion of the model.

    Attributes:
        text: as the model was asked to say it.
        codes: its audio codes, 25 a second.
    """

    text: str
    codes: tuple[int, ...]


@dataclass(frozen=True)
class PreferenceTake:
    """One way in which it was said.

    Attributes:
        audio_filepath: its sound. Relative paths in a file are relative to its folder; rows that
            were read hold absolute ones.
        duration: in seconds.
        seed: it was sampled with; None: unknown.
        sentences: what it consists of, in order; None: unknown.
    """

    audio_filepath: str
    duration: float
    seed: int | None = None
    sentences: tuple[TakeSentence, ...] | None = None

    @property
    def codes(self) -> tuple[int, ...] | None:
        """Audio codes of all sentences; None: unknown."""
        if self.sentences is None:
            return None
        return tuple(code for sentence in self.sentences for code in sentence.codes)


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
            rows.append(parse_row(line, folder))
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


def parse_row(line: bytes, folder: Path) -> PreferenceRow:
    """Read one line of a file in `folder`; ValueError says what is wrong with it."""
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
    check_row(row)
    return row


def check_row(row: PreferenceRow) -> None:
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
        seed, sentences = values.get("seed"), values.get("sentences")
        if seed is not None:
            _count(seed, "seed")
        if sentences is not None:
            sentences = tuple(map(_sentence, _list(sentences, "sentences")))
    except ValueError as error:
        raise ValueError(f"take {name!r}: {error}") from error
    return PreferenceTake(str(folder / file), duration, seed, sentences)


def _sentence(values: Any) -> TakeSentence:
    if not isinstance(values, dict):
        raise ValueError(f"field 'sentences' must be objects, got {values!r}")
    _check_names(values, _SENTENCE_FIELDS, required=("text", "codes"))
    codes = tuple(_count(code, "codes") for code in _list(values["codes"], "codes"))
    return TakeSentence(_string(values["text"], "text"), codes)


def _list(values: Any, name: str) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"field {name!r} must be a list, got {values!r}")
    return values


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
