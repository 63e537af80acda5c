"""Lines on standard output and standard error."""

from __future__ import annotations

import os
import sys

from stepaudio.errors import OutputError, StepAudioError


class UsageError(StepAudioError):
    """Arguments do not fit each other or the model."""


def echo(text: str) -> None:
    """Print results at once, as they are.

    Raises:
        OutputError: standard output cannot be written.
        BrokenPipeError: its reader went away.
    """
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"standard output: cannot be written: {reason}") from error


def report(message: str) -> None:
    """Print one line about what went wrong on standard error."""
    line = " ".join(part.strip() for part in message.splitlines())
    print(f"stepaudio: {line}", file=sys.stderr, flush=True)


def abandon_stdout() -> None:
    """Drop what standard output still holds, or Python would complain about it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def accept_any_text() -> None:
    """Let no character of a file name or transcript fail, whatever the locale is."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
