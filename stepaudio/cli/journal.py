"""Which recordings a folder of transcripts has already, so that an interrupted job goes on.

Beside the transcripts lies a journal with one line for each of them: its name, and a fingerprint of
the recording and of all options that change the text. A line is written when its transcript is
there, whole; a line that was cut off counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepaudio.atomic import write_text_atomic
from stepaudio.catalog import embedded_folder, find_entry
from stepaudio.errors import OutputError

JOURNAL_FILE = ".stepaudio-asr.jsonl"


def fingerprint(file: str, options: Mapping[str, Any]) -> str | None:
    """What a transcript depends on, as a hash; None if there is no such regular file.

    A recording is known by its path, size and time of change.
    """
    try:
        found = os.stat(file)
    except OSError:
        return None
    if not os.path.isfile(file):
        return None
    values = [os.path.abspath(file), found.st_size, found.st_mtime_ns, dict(options)]
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def weights_fingerprint(model: str) -> list[tuple[str, int, int]] | None:
    """Names, sizes and times of the files of a model; None for one that is no local folder."""
    folder = (embedded_folder(model) if find_entry(model) else None) or Path(model)
    try:
        found = sorted(folder.iterdir()) if folder.is_dir() else [folder]
        stats = [(path, path.stat()) for path in found if path.is_file()]
    except OSError:
        return None
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats] or None


class Journal:
    """The journal of one folder.

    Args:
        folder: folder of the transcripts; it exists.

    Raises:
        OutputError: the journal cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / JOURNAL_FILE
        self._known = _read(self._path)
        # Without the lines that later ones replaced, and the end that may be cut off.
        if self._known:
            lines = (_line(name, known) for name, known in self._known.items())
            write_text_atomic(self._path, "".join(lines))

    def has(self, name: str, expected: str | None) -> bool:
        """Whether a transcript is there and is what the job would write."""
        if expected is None or self._known.get(name) != expected:
            return False
        return (self._folder / name).is_file()

    def note(self, name: str, found: str | None) -> None:
        """A transcript has been written.

        Raises:
            OutputError: the journal cannot be written.
        """
        if found is None:
            return
        self._known[name] = found
        try:
            with open(self._path, "ab") as file:
                file.write(_line(name, found).encode())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"{self._path}: cannot be written: {reason}") from error


def _line(name: str, found: str) -> str:
    return json.dumps({"output": name, "fingerprint": found}) + "\n"


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    known: dict[str, str] = {}
    for line in lines:
        try:
            values = json.loads(line)
            name, found = values["output"], values["fingerprint"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(name, str) and isinstance(found, str):
            known[name] = found
    return known
