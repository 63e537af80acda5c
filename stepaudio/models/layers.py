"""Layers that the audio encoder and the decoder share.

Shape legend: B batch, T time, H heads, K head width, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of rotary position embedding.

    Args:
        positions: integer positions, [..., T].
        head_dim: head width, even.
        theta: base of the frequencies.

    Returns:
        Two float32 tensors [..., T, head_dim], halves repeated as in Qwen2.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = 1.0 / theta ** (exponents / head_dim)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def apply_rotary(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys; the tables must broadcast to [B, H, T, K]."""
    first, second = x_BHTK.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return x_BHTK * cos.to(x_BHTK.dtype) + rotated * sin.to(x_BHTK.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm; the mean is taken in float32 whatever the input."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class SwiGLU(nn.Module):
    """Gated feed-forward layer of the decoder."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out
