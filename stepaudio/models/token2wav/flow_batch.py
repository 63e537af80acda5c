"""Memories of single sessions to rows of a batch, and back.

Tensors are [L, G, ...]: layers, and rows of one session (two in the estimator with guidance). In
a batch of N sessions they are [L, G * N, ...], all first rows before all second ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.conformer import EncoderPast
from stepaudio.models.token2wav.context import KeyValues
from stepaudio.models.token2wav.dit import EstimatorPast


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """[L, G, ...] of every session to [L, G * N, ...]."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.stack(list(tensors), dim=2).flatten(1, 2)


def _stacked_parts(parts: Sequence[KeyValues]) -> KeyValues:
    """Stack, with zeros behind the shorter ones."""
    longest = max(part.length for part in parts)

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        return _stacked([F.pad(x, (0, 0, 0, longest - x.shape[-2])) for x in tensors])

    return KeyValues(stack([p.keys for p in parts]), stack([p.values for p in parts]))


def stack_encoder(pasts: Sequence[EncoderPast], voices: Sequence[EncoderPast]) -> EncoderPast:
    """Memories of all sessions as one; the context is that of the voices, then their own."""
    return EncoderPast(
        torch.cat([past.lookahead for past in pasts]),
        torch.cat([past.upsample for past in pasts]),
        tuple(_stacked_parts([p.tokens[0] for p in side]) for side in (voices, pasts)),
        tuple(_stacked_parts([p.frames[0] for p in side]) for side in (voices, pasts)),
    )


def stack_estimator(
    pasts: Sequence[EstimatorPast], voices: Sequence[EstimatorPast]
) -> EstimatorPast:
    """Memories of all sessions as one; the context is that of the voices, then their own."""
    return EstimatorPast(
        _stacked([past.tails for past in pasts]),
        tuple(_stacked_parts([p.parts[0] for p in side]) for side in (voices, pasts)),
    )


def _row(tensor: Tensor, n: int, num_sessions: int) -> Tensor:
    return tensor.unflatten(1, (-1, num_sessions))[:, :, n].clone()


def _parts_row(parts: Sequence[KeyValues], n: int, num_sessions: int) -> tuple[KeyValues, ...]:
    return tuple(
        KeyValues(_row(p.keys, n, num_sessions), _row(p.values, n, num_sessions)) for p in parts
    )


def encoder_row(past: EncoderPast, n: int) -> EncoderPast:
    """Memory of one session of a batch, as a copy that keeps no other alive."""
    rows = past.lookahead.shape[0]
    return EncoderPast(
        past.lookahead[n : n + 1].clone(),
        past.upsample[n : n + 1].clone(),
        _parts_row(past.tokens, n, rows),
        _parts_row(past.frames, n, rows),
    )


def estimator_row(past: EstimatorPast, n: int, num_sessions: int) -> EstimatorPast:
    """Memory of one session of a batch, as a copy that keeps no other alive."""
    return EstimatorPast(_row(past.tails, n, num_sessions), _parts_row(past.parts, n, num_sessions))
