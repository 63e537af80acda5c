"""The ``stepaudio`` command."""

from stepaudio.cli.main import main

__all__ = ["main"]
