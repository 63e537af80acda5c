"""What the tabs tell people: problems, notes, and file names instead of paths."""

from __future__ import annotations

import html
from pathlib import Path


def problem(text: str) -> str:
    """HTML of something that went wrong; screen readers say it at once."""
    return f'<p class="sa-problem" role="alert">{html.escape(_sentence(text))}</p>'


def note(text: str) -> str:
    """HTML of a line that tells how it went."""
    return f'<p class="sa-note" role="status">{html.escape(text)}</p>'


def named(error: Exception, *paths: str | Path) -> str:
    """Message of an error with the names of uploaded files instead of where they are kept."""
    text = str(error)
    for path in paths:
        text = text.replace(str(path), Path(path).name)
    return text


def counted(number: int, one: str, many: str | None = None) -> str:
    """Number and noun.

    >>> counted(1, "file"), counted(3, "file")
    ('1 file', '3 files')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def length(seconds: float) -> str:
    """Duration as people say it.

    >>> length(3.94), length(125)
    ('3.9 s', '2 min 5 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _sentence(text: str) -> str:
    """Text that ends like a sentence; the first letter stays, since it may be a file's."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
