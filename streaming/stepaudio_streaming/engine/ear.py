"""What one session hears: sound since the last turn, and when turns begin and end."""

from __future__ import annotations

from collections import deque

import numpy as np

from stepaudio_streaming.events import (
    INPUT_RATE,
    OutputHeld,
    Samples,
    SpeechStarted,
    SpeechStopped,
    TurnDetection,
)
from stepaudio_streaming.turn import FRAME_MS, TurnDetector, TurnEvent

FRAME_SAMPLES = INPUT_RATE * FRAME_MS // 1000

_PREROLL_MS = 10_000  # kept while nobody speaks
_SPEECH_MARGIN = 0.15  # a frame so little below the threshold may still be speech
_MAX_THRESHOLD = 0.95
MAX_ENDED = 8  # turns that may wait for being committed


class Ear:
    """Input side of a session; probabilities of speech come from outside.

    Args:
        detection: how turns are found; None: the client ends them.
        max_s: of a turn; then its beginning is forgotten.
    """

    def __init__(self, detection: TurnDetection | None, *, max_s: float = 900.0) -> None:
        self._detection = detection
        self._detector = TurnDetector(detection)
        self._max_samples = int(max_s * INPUT_RATE)
        self._pieces: deque[Samples] = deque()
        self._num_kept = 0
        self._num_heard = 0  # samples since the session began
        self._frame = np.zeros(0, np.float32)  # beginning of the next frame
        self._num_frames = 0
        self._turn_start_ms: int | None = None
        self._ended: dict[int, int] = {}  # end to start of turns that nobody has committed yet
        self.last_speech_ms = 0  # end of the last frame that may have been speech

    @property
    def detects_turns(self) -> bool:
        """Whether anybody wants to know the probabilities."""
        return self._detection is not None

    @property
    def is_speaking(self) -> bool:
        """The user's turn has begun."""
        return self._detector.is_speaking

    @property
    def wants_score(self) -> bool:
        """See `TurnDetector`."""
        return self._detector.wants_score

    @property
    def silence_ms(self) -> int:
        """How long the user has been silent."""
        return FRAME_MS * self._num_frames - self.last_speech_ms

    @property
    def num_turn_samples(self) -> int:
        """Length of `heard_so_far()`."""
        first = self._num_heard - self._num_kept
        if self._turn_start_ms is not None:
            first = max(first, self._turn_start_ms * INPUT_RATE // 1000)
        return max(0, min(self._num_heard, FRAME_SAMPLES * self._num_frames) - first)

    def heard_so_far(self) -> Samples:
        """Sound of the turn without that of frames which nobody has judged yet."""
        return self.heard()[: self.num_turn_samples]

    def configure(self, detection: TurnDetection | None) -> list[TurnEvent]:
        """Turns are found in another way."""
        self._detection = detection
        if detection is None:
            self._turn_start_ms = None
        return self._detector.configure(detection)

    def append(self, samples: Samples) -> Samples:
        """More sound; returns the frames [n * 512] that are complete now."""
        self._num_heard += len(samples)
        self._pieces.append(samples)
        self._num_kept += len(samples)
        limit = self._max_samples
        if self.detects_turns and self._turn_start_ms is None and not self._ended:
            limit = _PREROLL_MS * INPUT_RATE // 1000
        self._keep(limit)
        joined = np.concatenate([self._frame, samples])
        whole = len(joined) - len(joined) % FRAME_SAMPLES
        self._frame = joined[whole:].copy()
        return joined[:whole]

    def push(
        self, probability: float, *, bot_speaking: bool, score: float | None = None
    ) -> list[TurnEvent]:
        """The next frame is speech with this probability; see `TurnDetector.push`."""
        self._num_frames += 1
        events = self._detector.push(probability, bot_speaking=bot_speaking, score=score)
        detection = self._detection
        if detection is not None:
            semantic = detection.kind == "semantic_vad"
            threshold = 0.5 if semantic else min(detection.threshold, _MAX_THRESHOLD)
            if probability >= threshold - _SPEECH_MARGIN:
                self.last_speech_ms = FRAME_MS * self._num_frames
        for event in events:
            if isinstance(event, SpeechStarted):
                self._turn_start_ms = event.audio_ms
            elif isinstance(event, SpeechStopped) and self._turn_start_ms is not None:
                self._ended[event.audio_ms] = self._turn_start_ms
                self._turn_start_ms = None
                if len(self._ended) > MAX_ENDED:
                    del self._ended[min(self._ended)]
        return events

    def skip(self, num_frames: int) -> None:
        """Frames pass by of which nobody wants to know whether they are speech."""
        self._num_frames += num_frames
        for _ in range(num_frames):
            self._detector.push(0.0)

    def heard(self, end_ms: int | None = None) -> Samples:
        """Sound of the turn so far, float32 [samples] at 16 kHz; nothing is forgotten."""
        sound = np.concatenate([np.zeros(0, np.float32), *self._pieces])
        first = self._num_heard - self._num_kept
        start = 0
        start_ms = self._turn_start_ms if end_ms is None else self._ended.get(end_ms)
        if start_ms is not None:
            start = max(0, start_ms * INPUT_RATE // 1000 - first)
        stop = len(sound) if end_ms is None else max(start, end_ms * INPUT_RATE // 1000 - first)
        return sound[start:stop]

    def commit(self, end_ms: int | None) -> tuple[Samples, list[TurnEvent]]:
        """The turn is an item now: its sound, and what follows for turns.

        Args:
            end_ms: later sound belongs to the next turn; None: all belongs to this one.
        """
        sound = self.heard(end_ms)
        return sound, self._forget(end_ms)

    def clear(self) -> list[TurnEvent]:
        """What was heard is forgotten."""
        return self._forget(None)

    def _forget(self, end_ms: int | None) -> list[TurnEvent]:
        later = 0
        if end_ms is not None:
            later = max(0, self._num_heard - end_ms * INPUT_RATE // 1000)
        self._keep(later)
        self._ended = {} if end_ms is None else {e: s for e, s in self._ended.items() if e > end_ms}
        if end_ms is None:
            self._turn_start_ms = None
            return self._detector.clear()
        return []  # a new turn may have begun since

    def _keep(self, num_samples: int) -> None:
        while self._num_kept > num_samples:
            excess = self._num_kept - num_samples
            oldest = self._pieces.popleft()
            if len(oldest) > excess:
                self._pieces.appendleft(oldest[excess:])
                self._num_kept -= excess
            else:
                self._num_kept -= len(oldest)


def holds(events: list[TurnEvent]) -> bool | None:
    """Whether answers wait after some events; None: nothing has changed."""
    held: bool | None = None
    for event in events:
        if isinstance(event, OutputHeld):
            held = event.held
        elif isinstance(event, SpeechStarted):
            held = False
    return held
