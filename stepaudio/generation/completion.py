"""What a completion continues, what it yields, and whether it fits the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from stepaudio.audio.frames import MEL_FRAMES_PER_SECOND, FrameGeometry
from stepaudio.errors import CapacityError
from stepaudio.generation.stats import GenerationStats

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationPrompt:
    """What a completion continues.

    Attributes:
        ids: tokens, with one run of ``<audio_patch>`` for every audio.
        audio: latents [S, D] of every audio, in the order of the ``<audio_start>`` tokens.
        audio_s: seconds of audio, for the statistics.
        adapter: which of the generator's decoders continues it.
    """

    ids: Sequence[int]
    audio: Sequence[Tensor] = ()
    audio_s: float = 0.0
    adapter: int = 0


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        index: which prompt it belongs to.
        token_id: the token.
        log_prob: its log-probability under the model.
        finish_reason: set on the last token: "stop" if it is an end token, else "length".
    """

    index: int
    token_id: int
    log_prob: float
    finish_reason: FinishReason | None = None


@dataclass
class Completion:
    """What was generated for one prompt.

    Attributes:
        ids: tokens without the end token.
        log_probs: log-probability of every token, the end token's included.
        finish_reason: "stop" at an end token, "length" at `max_new_tokens` or the context's end.
        stats: what it cost.
    """

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stats: GenerationStats = field(default_factory=GenerationStats)


def check_fits(num_ids: int, num_audio: int, context: int, geometry: FrameGeometry) -> None:
    """Make sure that a prompt leaves room for at least one token.

    Args:
        num_ids: tokens of the prompt, audio included.
        num_audio: those of them that stand for audio.
        context: longest sequence of the model.
        geometry: frame arithmetic of its encoder.

    Raises:
        CapacityError: it does not; the message says how many seconds of audio would.
    """
    if num_ids < context:
        return
    room = max(context - 1 - (num_ids - num_audio), 0)
    seconds = room * geometry.token_stride / MEL_FRAMES_PER_SECOND
    raise CapacityError(
        f"the prompt has {num_ids} tokens, {num_audio} of them audio, but the model's "
        f"context is {context} tokens: with this text {seconds:.0f} s of audio fit"
    )
