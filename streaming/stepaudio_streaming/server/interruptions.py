"""How long an answer is still sent when the user begins to speak: measured for operators."""

from __future__ import annotations

from collections import deque

from stepaudio_streaming.events import Event, OutputHeld, SpeechStarted
from stepaudio_streaming.server.metrics import Histogram

_LONGEST_HOLD_MS = 1000  # whoever interrupts was heard by then
_MAX_ARRIVALS = 512  # of a client's latest pieces of sound; ten seconds of the usual ones


class InterruptionWatch:
    """Watches one connection.

    Args:
        histogram: takes the seconds of every interruption.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=_MAX_ARRIVALS)
        self._clock_ms = 0
        # End of the frame that may be an interruption, and when it arrived.
        self._onset: tuple[int, float] | None = None
        self._last_sent = 0.0

    def appended(self, clock_ms: int, arrived_at: float) -> None:
        """The client's sound goes on to `clock_ms`."""
        if clock_ms > self._clock_ms:
            self._clock_ms = clock_ms
            self._arrivals.append((clock_ms, arrived_at))

    def hear(self, event: Event) -> None:
        """An event of the engine was told to the client."""
        if isinstance(event, OutputHeld):
            if not event.held:
                self._onset = None
            elif self._onset is None or event.since_ms - self._onset[0] > _LONGEST_HOLD_MS:
                self._onset = self._arrival(event.since_ms)
        elif isinstance(event, SpeechStarted) and self._onset is not None:
            (since_ms, arrived_at), self._onset = self._onset, None
            # A sound at the end of an answer is held at once, and nobody says so when it was
            # neither an interruption nor a cough: the answer is over.
            if since_ms >= event.audio_ms:
                self._histogram.observe(max(0.0, self._last_sent - arrived_at))

    def sent(self, now: float) -> None:
        """Speech was sent."""
        self._last_sent = now

    def _arrival(self, since_ms: int) -> tuple[int, float] | None:
        """A time of the session, and when the sound at it had arrived."""
        found = ((since_ms, at) for clock_ms, at in self._arrivals if clock_ms >= since_ms)
        return next(found, None)
