"""What becomes of a user's sound: a transcript, or what the decoder hears itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from stepaudio.audio.frames import FrameGeometry, pieces
from stepaudio.audio.mel import log_mel
from stepaudio.generation.generator import Generator
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


@dataclass(frozen=True)
class Sound:
    """A piece of the user's sound as the decoder hears it.

    Attributes:
        name: equal names are equal sounds.
        latents: [S, D].
    """

    name: int
    latents: Tensor


def encoding(generator: Generator) -> Hear:
    """Understand by encoding; every piece of at most 25 s is one sound.

    Args:
        generator: encodes.
    """
    config = generator.model.config.audio_encoder_config
    names = count()

    def hear(samples: Tensor) -> Iterator[Heard]:
        found: list[Sound] = []
        for start, stop in pieces(len(samples)):
            if not config.geometry.tokens_for_samples(stop - start):
                continue  # too short to be heard
            mel = log_mel(samples[start:stop], config.n_mels, floor=config.mel_floor)
            (latents,) = generator.encode([mel])
            found.append(Sound(next(names), latents))
            num_tokens = sum(len(one.latents) for one in found)
            yield Heard("", True, num_tokens, tuple(found))

    return hear
