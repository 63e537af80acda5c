"""What all speech tokenizers share: their interface, long recordings, and the codebook.

Shape legend: B batch, M mel bands, T mel frames, S frames inside (one for each token), D width,
Q digits of a code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from stepaudio.audio.frames import MEL_FRAMES_PER_SECOND
from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection

# Float32 0.999: keeps the rounding below a tie where the hyperbolic tangent is one.
BOUND = 0.9990000128746033


class SpeechTokenizer(Protocol):
    """Speech to audio tokens."""

    @property
    def codebook_size(self) -> int:
        """Number of codes."""

    @property
    def token_rate(self) -> float:
        """Tokens in a second."""

    def tokenize(self, wav: Tensor) -> Tensor:
        """Turn 16 kHz mono speech [samples] of any length into codes, int64 [tokens]."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(ConfigSection, ABC):
    """Fields that every tokenizer has.

    Attributes:
        codebook_levels: values of every digit of a code, odd numbers.
        window_s: longest piece in seconds that is tokenised at once.
        overlap_s: seconds that pieces of longer recordings share; half is dropped at each side.
    """

    codebook_levels: tuple[int, ...] = (3,) * 8
    window_s: int = 30
    overlap_s: int = 4

    def __post_init__(self) -> None:
        if not self.codebook_levels or any(n < 3 or n % 2 == 0 for n in self.codebook_levels):
            raise ConfigError(
                f"codebook_levels must be odd and at least 3, got {list(self.codebook_levels)}"
            )
        seconds = (self.window_s, self.overlap_s)
        if any(s * MEL_FRAMES_PER_SECOND % (2 * self.token_stride) for s in seconds):
            raise ConfigError("windows and half overlaps must hold whole tokens")
        if not 0 < self.overlap_s < self.window_s:
            raise ConfigError("overlap_s must be positive and below window_s")

    @property
    @abstractmethod
    def token_stride(self) -> int:
        """Mel frames for every token."""

    @property
    def token_rate(self) -> float:
        """Tokens in a second."""
        return MEL_FRAMES_PER_SECOND / self.token_stride

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return math.prod(self.codebook_levels)

    def windows(self, num_frames: int) -> list[tuple[int, int]]:
        """Bounds of the pieces, in mel frames, that a recording is tokenised in."""
        size = self.window_s * MEL_FRAMES_PER_SECOND
        step = size - self.overlap_s * MEL_FRAMES_PER_SECOND
        bounds = [(0, min(size, num_frames))]
        while bounds[-1][1] < num_frames:
            start = bounds[-1][0] + step
            bounds.append((start, min(start + size, num_frames)))
        return bounds


class ConfiguredTokenizer:
    """What a tokenizer's configuration tells of it.

    Attributes:
        config: set by the tokenizer.
    """

    config: TokenizerConfig

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.codebook_size

    @property
    def token_rate(self) -> float:
        """Tokens in a second."""
        return self.config.token_rate


def tokenize_windows(
    mel_MT: Tensor, config: TokenizerConfig, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Tokenise a recording of any length piece by piece.

    Of neighbours, which share `overlap_s`, each loses half of that at the joint.

    Args:
        mel_MT: log-mel of the whole recording.
        config: lengths of windows and overlaps.
        encode: mel [M, T] of one piece to codes [S].

    Returns:
        int64 [tokens].
    """
    if not mel_MT.shape[-1]:
        return torch.zeros(0, dtype=torch.int64, device=mel_MT.device)
    windows = config.windows(mel_MT.shape[-1])
    dropped = round(config.overlap_s * config.token_rate) // 2
    kept = []
    for index, (start, stop) in enumerate(windows):
        codes = encode(mel_MT[:, start:stop])
        first = dropped if index else 0
        last = len(codes) - (dropped if index < len(windows) - 1 else 0)
        kept.append(codes[first:last])
    return torch.cat(kept)


class FiniteScalarCodebook(nn.Module):
    """Projection to a few bounded numbers, each of which is rounded to one of its levels."""

    basis: Tensor

    def __init__(self, width: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.project_down = nn.Linear(width, len(levels))
        basis = [math.prod(levels[:digit]) for digit in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def _half(self, like: Tensor) -> Tensor:
        return torch.tensor([n // 2 for n in self.levels], dtype=like.dtype, device=like.device)

    def quantise(self, x_BSD: Tensor) -> Tensor:
        """Values [B, S, Q] from -1 to 1; the gradient passes the rounding unchanged."""
        half = self._half(x_BSD)
        bounded = self.project_down(x_BSD).tanh() * BOUND * half
        return (bounded + (bounded.round() - bounded).detach()) / half

    def codes(self, values_BSQ: Tensor) -> Tensor:
        """Codes [B, S] of quantised values."""
        half = self._half(values_BSQ)
        digits = (values_BSQ * half + half).round().long()
        return (digits * self.basis).sum(dim=-1)

    def values(self, codes_BS: Tensor) -> Tensor:
        """Quantised values [B, S, Q] of codes."""
        levels = torch.tensor(self.levels, device=codes_BS.device)
        digits = codes_BS[..., None] // self.basis % levels
        half = self._half(self.project_down.weight)
        return (digits - half) / half
