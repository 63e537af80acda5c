"""Estimate of what a listener has heard, from when audio was sent to him."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PlaybackClock:
    """A player that starts with the first piece, plays in real time, and pauses when it runs dry.

    Attributes:
        sent_ms: audio given to the player so far.
        ends_at: when it will have played everything, on the caller's clock in seconds.
    """

    sent_ms: float = 0.0
    ends_at: float = 0.0

    def send(self, audio_ms: float, now: float) -> None:
        """A piece of audio was sent at `now`."""
        self.sent_ms += audio_ms
        self.ends_at = max(self.ends_at, now) + audio_ms / 1000.0

    def played_ms(self, now: float) -> int:
        """Audio that was heard until `now`."""
        return round(max(0.0, self.sent_ms - self.unplayed_ms(now)))

    def unplayed_ms(self, now: float) -> float:
        """Audio that is still to be heard."""
        return min(self.sent_ms, max(0.0, self.ends_at - now) * 1000.0)

    def stop(self, now: float) -> None:
        """The player was told to throw away what it has not played."""
        self.sent_ms, self.ends_at = float(self.played_ms(now)), now
