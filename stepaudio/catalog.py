"""Which models can be loaded by name, where their files are, and what they understand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from stepaudio.errors import CheckpointError, VoiceError

DEFAULT_MODEL = "nano"
DEFAULT_VOICE = "kathleen"
_VOICE_LIST = "voices.json"
_VOICE_SUFFIXES = (".ogg", ".flac", ".wav")


@dataclass(frozen=True)
class CatalogEntry:
    """One loadable model.

    Attributes:
        name: what ``--model`` takes.
        where: where its files come from.
        summary: one line about it.
        languages: codes of the languages that it transcribes; empty: several, without a check.
    """

    name: str
    where: str
    summary: str
    languages: tuple[str, ...] = ()


_HUB = "Hugging Face Hub"
CATALOG = (
    CatalogEntry("nano", "inside this package", "small; for a laptop CPU, offline", ("en",)),
    CatalogEntry("stepfun-ai/Step-Audio-2-mini", _HUB, "8.3 B parameters"),
    CatalogEntry("stepfun-ai/Step-Audio-2-mini-Base", _HUB, "8.3 B, no chat format"),
    CatalogEntry("stepfun-ai/Step-Audio-2-mini-Think", _HUB, "8.3 B, thinks first"),
)


def find_entry(name: str) -> CatalogEntry | None:
    """Entry of a model, or None for a folder or a model of the Hub that is not listed."""
    return next((entry for entry in CATALOG if entry.name == name), None)


def embedded_folder(name: str) -> Path | None:
    """Folder of a model that ships in this package, or None for any other model.

    Raises:
        CheckpointError: this installation lacks the model's files.
    """
    if name != DEFAULT_MODEL:
        return None
    folder = Path(str(files("stepaudio"))) / "weights" / name
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{name}: its weights are missing in {folder}; reinstall stepaudio")
    return folder


def list_voices() -> Mapping[str, str]:
    """Voices of this package by name, and what they are; see `voices/README.md` there.

    A voice is a recording in the folder ``voices`` with a line in its ``voices.json``.

    Raises:
        VoiceError: the list is damaged.
    """
    path = _voice_folder() / _VOICE_LIST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VoiceError(f"{path}: cannot be read ({error}); reinstall stepaudio") from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise VoiceError(f"{path}: expected names and what they are; reinstall stepaudio")
    return values


def find_voice(source: str | Path) -> Path:
    """File of a voice: the path itself, or a voice of this package by its name.

    Raises:
        VoiceError: there is neither.
    """
    path = Path(source)
    if path.exists():
        return path
    voices = list_voices()
    if str(source) in voices:
        for suffix in _VOICE_SUFFIXES:
            bundled = _voice_folder() / f"{source}{suffix}"
            if bundled.is_file():
                return bundled
    raise VoiceError(f"{source}: no such file, and no voice of this package ({', '.join(voices)})")


def _voice_folder() -> Path:
    return Path(str(files("stepaudio"))) / "voices"
