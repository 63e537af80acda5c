"""The loudspeaker of a simulated speaker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Player:
    """Plays what comes at once and without a reserve; counts how often it runs dry.

    Attributes:
        received_ms: sound of the answer so far.
        ends_at: when all of it will have been played, in seconds.
        underruns: how often there was nothing to play in the middle of an answer.
        underrun_s: silence that this made.
    """

    received_ms: float = 0.0
    ends_at: float = 0.0
    underruns: int = 0
    underrun_s: float = 0.0
    _stopped_ms: float | None = None

    def receive(self, audio_ms: float, now: float) -> None:
        """More sound has come."""
        if self.received_ms and now > self.ends_at and self._stopped_ms is None:
            self.underruns += 1
            self.underrun_s += now - self.ends_at
        self.ends_at = max(self.ends_at, now) + audio_ms / 1000
        self.received_ms += audio_ms

    def played_ms(self, now: float) -> float:
        """Sound that was heard until now."""
        if self._stopped_ms is not None:
            return self._stopped_ms
        return self.received_ms - max(0.0, self.ends_at - now) * 1000

    def stop(self, now: float) -> float:
        """Throw away what has not been played; how much was, in ms."""
        self._stopped_ms = self.played_ms(now)
        return self._stopped_ms
