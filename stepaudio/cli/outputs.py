"""Where transcripts go: standard output, a table on it, or one file for each recording."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stepaudio.atomic import write_text_atomic
from stepaudio.audio.files import STDIN
from stepaudio.cli.formats import SUFFIXES, Result, Table, one_line, render
from stepaudio.cli.journal import Journal, fingerprint
from stepaudio.errors import OutputError


class Output(Protocol):
    """Takes results in the order of the inputs. All methods return text for standard output."""

    def begin(self) -> str:
        """Before the first result."""
        ...

    def add(self, index: int, result: Result) -> str:
        """Take the result of an input.

        Raises:
            OutputError: its file cannot be written.
        """
        ...

    def end(self) -> str:
        """Behind the last result."""
        ...

    def is_done(self, index: int) -> bool:
        """Whether the result of an input is there from an earlier run."""
        ...


class StreamOutput:
    """The format itself; texts of several recordings are told apart by their files."""

    def __init__(self, kind: str, *, with_names: bool) -> None:
        self._kind = kind
        self._with_names = with_names and kind == "text"

    def begin(self) -> str:
        """See `Output`."""
        return ""

    def add(self, index: int, result: Result) -> str:
        """See `Output`."""
        text = render(self._kind, result)
        return f"{one_line(result.file)}: {text}" if self._with_names else text

    def end(self) -> str:
        """See `Output`."""
        return ""

    def is_done(self, index: int) -> bool:
        """See `Output`."""
        return False


class TableOutput:
    """Rows for people to read."""

    def __init__(self, files: Sequence[str]) -> None:
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._table = Table(files, shutil.get_terminal_size().columns if is_terminal else None)

    def begin(self) -> str:
        """See `Output`."""
        return self._table.header()

    def add(self, index: int, result: Result) -> str:
        """See `Output`."""
        return self._table.row(result)

    def end(self) -> str:
        """See `Output`."""
        return self._table.footer()

    def is_done(self, index: int) -> bool:
        """See `Output`."""
        return False


class FolderOutput:
    """One file for each recording, each whole or not there; what is there already is known."""

    def __init__(
        self,
        folder: str,
        kind: str,
        files: Sequence[str],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the folder if needed and make sure that it can be written.

        Args:
            folder: where the files go.
            kind: format of `SUFFIXES`.
            files: the recordings.
            options: all that changes the transcripts.

        Raises:
            OutputError: it cannot.
        """
        self._folder = output_folder(folder)
        self._kind = kind
        self._names = [stem + SUFFIXES[kind] for stem in output_stems(files)]
        self._fingerprints = [
            fingerprint(file, {**(options or {}), "format": kind}) for file in files
        ]
        self._journal = Journal(self._folder)

    def is_done(self, index: int) -> bool:
        """Whether the transcript of an input is there, made from the same file in the same way."""
        return self._journal.has(self._names[index], self._fingerprints[index])

    def begin(self) -> str:
        """See `Output`."""
        return ""

    def add(self, index: int, result: Result) -> str:
        """See `Output`."""
        path = self._folder / self._names[index]
        write_text_atomic(path, render(self._kind, result))
        self._journal.note(self._names[index], self._fingerprints[index])
        return f"{one_line(result.file)} -> {one_line(str(path))}\n"

    def end(self) -> str:
        """See `Output`."""
        return ""


def output_folder(folder: str) -> Path:
    """Make a folder if needed and make sure that it can be written.

    Raises:
        OutputError: it cannot.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError as error:
        raise OutputError(f"{folder}: is a file, not a folder for the output") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{folder}: cannot be written: {reason}") from error
    return path


def output_stems(files: Sequence[str]) -> list[str]:
    """Names for the outputs of files, without suffix and each different from all others.

    A file gives its own name; where several would share one, they keep their suffix, and if that
    is not enough, the names of the folders above them are put in front.
    """
    candidates = [_candidates(file) for file in files]
    levels = [0] * len(files)
    while True:
        stems = [names[level] for names, level in zip(candidates, levels, strict=True)]
        # Some file systems do not tell upper from lower case.
        counts = Counter(stem.casefold() for stem in stems)
        shared = [
            i
            for i, stem in enumerate(stems)
            if counts[stem.casefold()] > 1 and levels[i] + 1 < len(candidates[i])
        ]
        if not shared:
            return _numbered(stems)
        for i in shared:
            levels[i] += 1


def _candidates(file: str) -> list[str]:
    if file == STDIN:
        return ["stdin"]
    path = Path(os.path.abspath(file))
    names = [path.stem, path.name]
    for parent in path.parents:
        if parent.name:
            names.append(f"{parent.name}-{names[-1]}")
    return names


def _numbered(stems: Sequence[str]) -> list[str]:
    """Tell apart what no folder does, such as names that differ in case only."""
    taken: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
