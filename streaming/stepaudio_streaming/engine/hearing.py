"""What becomes of a user's sound: a transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from stepaudio.audio.frames import FrameGeometry
from stepaudio.tasks.listening import Listener, joined
from stepaudio.tasks.recognizer import Recognition
from stepaudio_streaming.engine.parts import Heard

# Float32 [samples] at 16 kHz to what is understood of them, a piece with every step.
Hear = Callable[[Tensor], Iterator[Heard]]


def transcribing(listener: Listener, geometry: FrameGeometry, min_confidence: float) -> Hear:
    """Understand by writing down, one window of speech after the other.

    Args:
        listener: writes down.
        geometry: of its encoder.
        min_confidence: less certain transcripts are not relied on.
    """

    def hear(samples: Tensor) -> Iterator[Heard]:
        num_tokens = geometry.tokens_for_samples(len(samples))
        found: list[Recognition] = []
        for one in listener.pieces(samples):
            found.append(one)
            heard = joined(found)
            certain = bool(heard.text) and heard.confidence >= min_confidence
            yield Heard(heard.text, certain, num_tokens)

    return hear
