"""When the user begins and ends to speak, decided frame by frame from speech probabilities.

Pure: the caller runs the detector of voice activity and, for semantic turns, the model that says
whether the user has finished. That one is needed only while `wants_score`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stepaudio_streaming.events import (
    OutputHeld,
    SpeechStarted,
    SpeechStopped,
    TurnDetection,
)

FRAME_MS = 32  # of the library's voice activity detectors

TurnEvent = OutputHeld | SpeechStarted | SpeechStopped

_MAX_THRESHOLD = 0.95  # detectors hardly ever say more


@dataclass(frozen=True, kw_only=True)
class TurnPolicy:
    """Constants of turn taking that clients do not set.

    Attributes:
        hysteresis: speech goes on until the probability is this much below the threshold.
        semantic_threshold: threshold of semantic turns.
        min_speech_ms: shorter sounds are not speech.
        bot_margin: while the assistant speaks, the threshold is higher by this much: what is heard
            may be its own echo.
        min_interruption_ms: shorter sounds do not interrupt the assistant.
        max_gap_ms: the beginning of speech may have gaps of this length.
        min_pause_ms: from this silence on, the model is asked whether the user has finished.
    """

    hysteresis: float = 0.15
    semantic_threshold: float = 0.5
    min_speech_ms: int = 64
    bot_margin: float = 0.15
    min_interruption_ms: int = 160
    max_gap_ms: int = 32
    min_pause_ms: int = 160


@dataclass(frozen=True)
class Eagerness:
    """How soon a semantic turn ends.

    Attributes:
        finished: from this score on, the user has finished.
        max_wait_ms: silence that ends a turn whatever the score.
        fallback_ms: silence that ends a turn for which nobody gives a score.
    """

    finished: float
    max_wait_ms: int
    fallback_ms: int


EAGERNESS = {
    "low": Eagerness(0.8, 8000, 1200),
    "medium": Eagerness(0.6, 4000, 800),
    "high": Eagerness(0.4, 2000, 500),
    "auto": Eagerness(0.6, 4000, 800),
}
DEFAULT_POLICY = TurnPolicy()


def onset_threshold(detection: TurnDetection, policy: TurnPolicy = DEFAULT_POLICY) -> float:
    """Probability from which on a frame may be the beginning of an interruption."""
    semantic = detection.kind == "semantic_vad"
    threshold = policy.semantic_threshold if semantic else detection.threshold
    return min(min(threshold, _MAX_THRESHOLD) + policy.bot_margin, _MAX_THRESHOLD)


_State = Literal["idle", "suspecting", "speaking"]


class TurnDetector:
    """Turns of one user; the clock is that of all audio ever heard.

    Args:
        detection: what the client wants; None: it ends turns itself, nothing is detected.
        policy: what it does not set.
    """

    def __init__(
        self, detection: TurnDetection | None, policy: TurnPolicy = DEFAULT_POLICY
    ) -> None:
        self._detection = detection
        self._policy = policy
        self._now_ms = 0
        self._turn_end_ms = 0  # no later turn begins before it
        self._rest()

    @property
    def is_speaking(self) -> bool:
        """The user's turn has begun."""
        return self._state == "speaking"

    @property
    def wants_score(self) -> bool:
        """The next frame's decision depends on whether the user has finished."""
        return (
            self._detection is not None
            and self._detection.kind == "semantic_vad"
            and self._silent_from is not None
            and self._now_ms + FRAME_MS - self._silent_from >= self._policy.min_pause_ms
        )

    def configure(self, detection: TurnDetection | None) -> list[TurnEvent]:
        """The client wants something else; a turn that has begun goes on if turns are detected."""
        self._detection = detection
        return [] if detection is not None else self.clear()

    def clear(self) -> list[TurnEvent]:
        """What was heard belongs to no turn any more: committed by the client, or cleared."""
        self._turn_end_ms = self._now_ms
        held = self._holding
        self._rest()
        return [OutputHeld(False)] if held else []

    def push(
        self, probability: float, *, bot_speaking: bool = False, score: float | None = None
    ) -> list[TurnEvent]:
        """Hear the next frame.

        Args:
            probability: that it is speech.
            bot_speaking: the user hears the assistant at this moment.
            score: probability that the user has finished, if `wants_score` and somebody knows.

        Returns:
            What it means, in order.
        """
        start_ms = self._now_ms
        self._now_ms += FRAME_MS
        if self._detection is None:
            return []
        if self._state == "speaking":
            return self._go_on(probability, self._detection, start_ms, score)
        return self._begin(probability, self._detection, start_ms, bot_speaking)

    # ---- states ------------------------------------------------------------------------------

    def _rest(self) -> None:
        self._state: _State = "idle"
        self._speech_from = 0
        self._speech_ms = self._gap_ms = 0
        self._silent_from: int | None = None
        self._holding = False

    def _threshold(self, detection: TurnDetection) -> float:
        if detection.kind == "semantic_vad":
            return self._policy.semantic_threshold
        return min(detection.threshold, _MAX_THRESHOLD)

    def _begin(
        self, probability: float, detection: TurnDetection, start_ms: int, bot_speaking: bool
    ) -> list[TurnEvent]:
        policy = self._policy
        guarded = bot_speaking or self._holding
        threshold = self._threshold(detection) + (policy.bot_margin if guarded else 0.0)
        if probability < min(threshold, _MAX_THRESHOLD):
            return self._doubt()
        events: list[TurnEvent] = []
        if self._state == "idle":
            self._state, self._speech_from = "suspecting", start_ms
            if bot_speaking and detection.interrupt:
                self._holding = True
                events.append(OutputHeld(True, self._now_ms))
        self._speech_ms += FRAME_MS
        self._gap_ms = 0
        needed_ms = policy.min_interruption_ms if guarded else policy.min_speech_ms
        if self._speech_ms >= needed_ms:
            padded = self._speech_from - detection.prefix_padding_ms
            events.append(SpeechStarted(max(padded, self._turn_end_ms, 0)))
            # Whoever hears this lets go or cancels by himself.
            self._state, self._holding = "speaking", False
        return events

    def _doubt(self) -> list[TurnEvent]:
        """A frame without speech before a turn has begun."""
        if self._state == "idle":
            return []
        self._gap_ms += FRAME_MS
        if self._gap_ms <= self._policy.max_gap_ms:
            return []
        held = self._holding
        self._rest()
        return [OutputHeld(False)] if held else []

    def _go_on(
        self, probability: float, detection: TurnDetection, start_ms: int, score: float | None
    ) -> list[TurnEvent]:
        threshold = self._threshold(detection)
        if probability >= threshold:
            self._silent_from = None
        elif self._silent_from is None and probability < threshold - self._policy.hysteresis:
            self._silent_from = start_ms
        if self._silent_from is None:
            return []
        silence_ms = self._now_ms - self._silent_from
        if silence_ms < self._needed_silence_ms(detection, score):
            return []
        self._turn_end_ms = self._now_ms
        self._rest()
        return [SpeechStopped(self._now_ms)]

    def _needed_silence_ms(self, detection: TurnDetection, score: float | None) -> int:
        if detection.kind == "server_vad":
            return detection.silence_duration_ms
        eagerness = EAGERNESS[detection.eagerness]
        if score is None:
            return eagerness.fallback_ms
        return self._policy.min_pause_ms if score >= eagerness.finished else eagerness.max_wait_ms
