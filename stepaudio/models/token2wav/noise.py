"""Normal noise as a function of seed, channel and absolute position.

A stream that is cut anywhere, a whole signal, and any number of sessions in one batch therefore
have the same noise, without a state. The integers are the same on every device.

Shape legend: B batch, C channels, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
# Multipliers of a 32-bit hash without measurable bias; both are below 2**31, so that the product
# with a 32-bit number stays inside a signed 64-bit one.
_FIRST_MULTIPLIER = 0x2C1B3C6D
_SECOND_MULTIPLIER = 0x297A2D39
_CHANNEL_STEP = 0x9E3779B9


def _mix(x: Tensor) -> Tensor:
    """Hash 32-bit numbers held in int64."""
    x = ((x ^ (x >> 16)) * _FIRST_MULTIPLIER) & _MASK
    x = ((x ^ (x >> 12)) * _SECOND_MULTIPLIER) & _MASK
    return x ^ (x >> 15)


def positional_noise(
    seeds: Sequence[int],
    starts: Sequence[int],
    shape: tuple[int, int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normal noise.

    Args:
        seeds: one for each row of the batch, any non-negative numbers below 2**63.
        starts: absolute position of each row's first value.
        shape: channels and positions (C, T).
        device: where the noise is wanted.

    Returns:
        float32 [B, C, T].
    """
    channels, size = shape
    seed_B11 = torch.tensor(seeds, dtype=torch.int64, device=device)[:, None, None]
    start_B11 = torch.tensor(starts, dtype=torch.int64, device=device)[:, None, None]
    channel_C1 = torch.arange(channels, device=device)[:, None] * _CHANNEL_STEP & _MASK
    low_key = _mix(_mix(seed_B11 & _MASK) ^ channel_C1)
    high_key = _mix(_mix((seed_B11 >> 32) ^ channel_C1) ^ low_key)
    position = start_B11 + torch.arange(size, device=device)
    first = _mix(_mix((position & _MASK) ^ low_key) ^ high_key ^ (position >> 32))
    second = _mix(first ^ low_key)
    # Box and Muller; the half keeps the logarithm away from zero.
    radius = torch.log((first.float() + 0.5) * 2.0**-32).mul(-2.0).clamp(min=0.0).sqrt()
    return radius * torch.cos(second.float() * (2.0 * math.pi * 2.0**-32))
