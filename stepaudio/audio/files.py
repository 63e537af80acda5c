"""Which audio files the user means."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

AUDIO_SUFFIXES = frozenset(
    ".wav .wave .w64 .rf64 .flac .mp3 .ogg .oga .opus .m4a .m4b .mp4 .aac .webm .weba .mka .mkv "
    ".mov .3gp .amr .wma .aif .aiff .aifc .au .snd .caf".split()
)
STDIN = "-"


def expand_paths(patterns: Iterable[str | Path]) -> list[str]:
    """List the audio files that command-line arguments mean.

    An existing file stands for itself, whatever its suffix. A folder stands for all audio files
    below it (by suffix, hidden ones left out), sorted. Anything else with `*`, `?` or `[` is a
    glob pattern, in which `**` goes through folders; it stands for the audio files it matches and
    for the files whose suffix it spells out. "-" is kept: it means standard input.

    What stands for nothing (missing file, pattern without match, folder without audio or that
    cannot be read) is kept as it is, so that loading it reports the cause.

    Returns:
        Paths as the user gave them (strings, so that "./a.wav" stays so), in the order of the
        arguments, each file once.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        text = str(pattern)
        for path in _expand(text):
            key = path if path == STDIN else os.path.abspath(path)
            found.setdefault(key, path)
    return list(found.values())


def _expand(text: str) -> list[str]:
    if text == STDIN or os.path.isfile(text):
        return [text]
    if os.path.isdir(text):
        return list(_walk(text)) or [text]
    matches: list[str] = []
    if glob.has_magic(text):
        wanted = Path(text).suffix
        for match in sorted(glob.glob(text, recursive=True)):
            if os.path.isdir(match):
                matches.extend(_walk(match))
            elif _is_audio(match) or (Path(match).suffix == wanted and wanted):
                matches.append(match)
    return matches or [text]


def _is_audio(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


def _walk(folder: str) -> Iterator[str]:
    unreadable: list[str] = []

    def note(error: OSError) -> None:
        unreadable.append(os.fspath(error.filename))

    for here, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if _is_audio(name) and not name.startswith("."):
                yield os.path.join(here, name)
    yield from unreadable
