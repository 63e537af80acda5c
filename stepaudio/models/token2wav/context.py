"""What the layers of the flow remember and see: keys and values, convolution tails, views.

Layers know nothing of modes and schedules. A caller hands them the keys and values of earlier
calls and a `View`; they return those of this call, of which the caller keeps what it wants.

Shape legend: L layers, B batch, T time of this call, S keys (earlier ones, then those of this
call), H heads, K head width, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of all layers of a stage, each [L, B, H, S, K]."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.keys.shape[-2]


@dataclass(frozen=True)
class View:
    """Which keys every query sees, and how far away they are.

    Attributes:
        visible: [B or 1, 1, T, S], true where the query may attend to the key; None: everywhere.
        distance: [B or 1, T, S], position of the query minus that of the key. Where the key is
            invisible it is any number of the range.
        nearest: smallest distance.
        farthest: largest distance.
    """

    visible: Tensor | None
    distance: Tensor
    nearest: int
    farthest: int


def full_view(num_queries: int, num_past: int, device: torch.device) -> View:
    """View of consecutive positions that all see each other and everything earlier."""
    queries = torch.arange(num_past, num_past + num_queries, device=device)
    keys = torch.arange(num_past + num_queries, device=device)
    distance = (queries[:, None] - keys[None, :])[None]
    return View(None, distance, 1 - num_queries, num_past + num_queries - 1)


def take_tail(extended: Tensor, counts: Tensor, size: int) -> Tensor:
    """The `size` last columns before the end of each row's valid part.

    Args:
        extended: [..., B, D, size + T], the earlier tail followed by the columns of this call.
        counts: [B], valid columns of this call.
        size: columns to take.

    Returns:
        [..., B, D, size].
    """
    index = counts[:, None, None] + torch.arange(size, device=extended.device)
    return extended.gather(-1, index.expand(*extended.shape[:-1], size))


def additive_mask(visible: Tensor | None, like: Tensor) -> Tensor | None:
    """Zeros and minus infinities of the type of `like` for a boolean mask; None stays None.

    Attention makes them of a boolean one at every call; many layers can share one.
    """
    if visible is None:
        return None
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, -math.inf)


def attend(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention with the heads joined: [B, T, H * K].

    Args:
        q_BHTK, k_BHSK, v_BHSK: queries, keys and values.
        mask: boolean (true: visible) or additive, broadcasts to [B, H, T, S].
        dropout: dropout of the attention weights.
    """
    out = F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(-2)
