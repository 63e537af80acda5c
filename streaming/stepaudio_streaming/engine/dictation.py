"""A transcript of what the model has heard as sound: written by a line of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.engine.parts import Line, Question, Token
from stepaudio_streaming.engine.reply import Desk
from stepaudio_streaming.engine.scheduler import Track
from stepaudio_streaming.events import Event, Samples, UserTranscript


class Dictation:
    """Writes down one entry, beside the answer to it.

    Args:
        entry: of the user, with its sounds.
        desk: shared by all sessions.
        tell: takes events.
        ended: called when it is over.
    """

    def __init__(
        self,
        entry: Entry,
        desk: Desk,
        tell: Callable[[Event], None],
        ended: Callable[[Dictation], None],
    ) -> None:
        self._entry = entry
        self._desk = desk
        self._tell = tell
        self._ended = ended
        self._track: Track | None = None
        self._question = Question(None)
        self._text = ""

    def begin(self) -> None:
        """Begin to write."""
        try:
            self._question = self._desk.mind.dictation(self._entry.sounds)
        except StepAudioError as error:
            return self.fail(str(error))
        if self._question.line is None:
            return self._finish()
        self._track = self._desk.new_track(self)

    @property
    def line(self) -> Line:
        """What it continues."""
        assert self._question.line is not None
        return self._question.line

    def pause(self, paused: bool) -> None:
        """Wait, or go on."""
        if self._track is not None:
            self._track.paused = paused

    def hear_token(self, track: Track, token: Token) -> bool:
        """The line got a token; returns whether it is the last one."""
        stream = self._question.stream
        if stream is not None and token.finish != "stop":
            self._write(stream.push(token.id))
        if token.finish is None:
            return False
        if stream is not None:
            self._write(stream.flush())
        self._finish()
        return True

    def hear_sound(self, track: Track, samples: Samples, now: float) -> None:
        """It has no voice."""
        assert not np.any(samples)

    def fail(self, message: str) -> None:
        """It cannot be written down."""
        self.stop()
        self._tell(UserTranscript(self._entry.item_id, "", final=True, error=message))
        self._ended(self)

    def stop(self) -> None:
        """Nobody wants it any more."""
        if self._track is not None:
            self._desk.drop(self._track.key)
            self._track = None

    def _write(self, text: str) -> None:
        if not self._text:
            text = text.lstrip()
        if text:
            self._text += text
            self._tell(UserTranscript(self._entry.item_id, text))

    def _finish(self) -> None:
        self.stop()
        self._tell(UserTranscript(self._entry.item_id, self._text, final=True))
        self._ended(self)
