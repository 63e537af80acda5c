"""Reads the conversation and what the user has said so far, while he still speaks."""

from __future__ import annotations

from stepaudio_streaming.engine.parts import Line, Token
from stepaudio_streaming.engine.reply import Desk
from stepaudio_streaming.engine.scheduler import Track
from stepaudio_streaming.events import Samples


class Foresight:
    """Keeps the slot of one conversation up to date; nothing depends on whether it has got there.

    Args:
        desk: shared by all sessions.
        memory: the conversation, see `Track`.
    """

    def __init__(self, desk: Desk, memory: int) -> None:
        self._desk = desk
        self._memory = memory
        self._line: Line | None = None
        self._track: Track | None = None

    @property
    def line(self) -> Line:
        """What is read."""
        assert self._line is not None
        return self._line

    def read(self, line: Line | None) -> None:
        """Read this instead of what was being read; None: nothing."""
        self.stop()
        if line is not None:
            self._line = line
            self._track = self._desk.new_track(self, memory=self._memory, ahead=True)

    def hear_token(self, track: Track, token: Token) -> bool:
        """The line was read."""
        self.stop()
        return True

    def hear_sound(self, track: Track, samples: Samples, now: float) -> None:
        """It has no voice."""

    def fail(self, message: str) -> None:
        """It does not fit; the answer will say so."""
        self.stop()

    def stop(self) -> None:
        """Nothing is read any more."""
        if self._track is not None:
            self._desk.drop(self._track.key)
            self._track = None
