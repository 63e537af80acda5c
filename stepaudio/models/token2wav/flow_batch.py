"""Memories of single sessions to rows of a batch, and back.

Tensors are [L, G, ...]: layers, and rows of one session (two in the estimator with guidance). In
a batch of N sessions they are [L, G * N, ...], all first rows before all second ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.conformer import EncoderPast, EncoderTrace
from stepaudio.models.token2wav.context import KeyValues
from stepaudio.models.token2wav.dit import EstimatorPast, EstimatorTrace


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """[L, G, ...] of every session to [L, G * N, ...]."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.stack(list(tensors), dim=2).flatten(1, 2)


def _padded(tensor: Tensor, size: int) -> Tensor:
    missing = size - tensor.shape[-2]
    return F.pad(tensor, (0, 0, 0, missing)) if missing else tensor  # padding by nothing copies


def _stacked_parts(parts: Sequence[KeyValues]) -> KeyValues:
    """Stack, with zeros behind the shorter ones."""
    longest = max(part.length for part in parts)

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        return _stacked([_padded(tensor, longest) for tensor in tensors])

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


@dataclass(frozen=True)
class Row:
    """One session of a batch: which one of how many, and its valid tokens or frames."""

    index: int
    num_sessions: int
    count: int

    def scaled(self, factor: int) -> Row:
        """The same at `factor` times the rate."""
        return Row(self.index, self.num_sessions, self.count * factor)

    def of(self, batch: Tensor) -> Tensor:
        """View [L, G, ...] of the session in [L, G * N, ...]."""
        return batch.unflatten(1, (-1, self.num_sessions))[:, :, self.index]

    def tail(self, extended: Tensor, size: int) -> Tensor:
        """The last columns before the end of the valid part, [..., size + T] to [..., size]."""
        return extended[..., self.count : self.count + size].clone()

    def behind(self, left: KeyValues, new: KeyValues) -> KeyValues:
        """As many last positions as `left` has, of `left` and the valid ones of the batch."""
        return KeyValues(
            self._last(left.keys, self.of(new.keys)), self._last(left.values, self.of(new.values))
        )

    def _last(self, left: Tensor, new: Tensor) -> Tensor:
        size = left.shape[-2]
        kept = left[..., min(self.count, size) :, :]
        # A copy in any case: no session keeps the memory of others alive.
        return torch.cat([kept, new[..., max(self.count - size, 0) : self.count, :]], dim=-2)


def encoder_behind(row: Row, past: EncoderPast, trace: EncoderTrace, factor: int) -> EncoderPast:
    """Memory of one session after a call of a batch.

    Args:
        row: the session, with its tokens.
        past: its memory before the call.
        trace: what the call left of all sessions.
        factor: frames for every token.
    """
    frames = row.scaled(factor)
    mine = slice(row.index, row.index + 1)
    return EncoderPast(
        row.tail(trace.lookahead[mine], past.lookahead.shape[-1]),
        frames.tail(trace.upsample[mine], past.upsample.shape[-1]),
        (row.behind(past.tokens[0], trace.tokens),),
        (frames.behind(past.frames[0], trace.frames),),
    )


def estimator_behind(row: Row, past: EstimatorPast, trace: EstimatorTrace) -> EstimatorPast:
    """The same of the estimator at one time; `row` counts frames."""
    tails = row.tail(row.of(trace.conv), past.tails.shape[-1])
    return EstimatorPast(tails, (row.behind(past.parts[0], trace.new),))
