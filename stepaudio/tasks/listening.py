"""What a user said, written down, or nothing where that cannot be relied on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stepaudio.audio.decoding import AudioSource
from stepaudio.audio.segmentation import (
    DEFAULT_VAD_OPTIONS,
    SpeechWindow,
    VadOptions,
    iter_speech_windows,
)
from stepaudio.audio.vad import VoiceActivityDetector, silero_detector
from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.hearing import read_samples
from stepaudio.tasks.recognizer import Recognition, Recognizer
from stepaudio.tasks.transcript import join_texts


@dataclass(frozen=True)
class Heard:
    """A spoken question, written down.

    Attributes:
        text: transcript; empty where there is no speech.
        confidence: of the recognition, 0 to 1; 0 without a transcript.
        stats: what recognition cost.
    """

    text: str
    confidence: float
    stats: GenerationStats


class Listener:
    """Writes down questions with a checkpoint's own recognition."""

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        detector: VoiceActivityDetector[Any] | None = None,
        vad: VadOptions = DEFAULT_VAD_OPTIONS,
    ) -> None:
        """Prepare.

        Args:
            recognizer: transcribes windows.
            detector: finds the speech; None: Silero.
            vad: how a question is cut into windows.
        """
        self._recognizer = recognizer
        self._detector = detector or silero_detector()
        self._vad = vad

    def __call__(self, audio: AudioSource | Tensor) -> Heard:
        """Write a question down.

        Args:
            audio: path, bytes or file object, or float32 [samples] at 16 kHz.

        Raises:
            AudioLoadError: it cannot be read.
            CapacityError: a window does not fit the model's context.
        """
        windows = self._windows(audio)
        return joined(self._recognizer.recognize_scored([one.samples for one in windows]))

    def pieces(self, audio: AudioSource | Tensor) -> Iterator[Recognition]:
        """Write a question down window by window; arguments and errors as `__call__`."""
        for window in self._windows(audio):
            yield from self._recognizer.recognize_scored([window.samples])

    def _windows(self, audio: AudioSource | Tensor) -> list[SpeechWindow]:
        samples, _ = read_samples(audio)
        return list(iter_speech_windows([samples], self._detector, self._vad))


def joined(found: Sequence[Recognition]) -> Heard:
    """One question of the windows of its sound."""
    stats = GenerationStats()
    for one in found:
        stats.add(one.stats)
    spoken = [one for one in found if one.text]
    length = sum(len(one.text) for one in spoken)
    # Long windows count more, as they do for the transcript.
    weighted = sum(one.confidence * len(one.text) for one in spoken)
    text = join_texts([one.text for one in spoken])
    return Heard(text, weighted / length if length else 0.0, stats)
