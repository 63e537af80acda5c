"""Memories of single sessions to rows of a batch, and back.

Keys and values are [L, G, S, ...]: layers, rows of one session (two in the estimator with
guidance), positions. In a batch of N sessions they are [L, G * N, S, ...], all first rows before
all second ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.conformer_fused import FusedEncoderPast, FusedEncoderTrace
from stepaudio.models.token2wav.dit_fused import FusedPast, FusedTrace


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """[L, G, ...] of every session to [L, G * N, ...]."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    if all(tensor is first for tensor in tensors):  # sessions in one voice read the same memory
        return first.unsqueeze(2).expand(-1, -1, len(tensors), *first.shape[2:]).flatten(1, 2)
    return torch.stack(list(tensors), dim=2).flatten(1, 2)


def _padded(tensor: Tensor, size: int, *, in_front: bool) -> Tensor:
    missing = size - tensor.shape[2]
    if not missing:
        return tensor  # padding by nothing copies
    return F.pad(tensor, (0, 0, 0, 0, missing, 0) if in_front else (0, 0, 0, 0, 0, missing))


def _stacked_parts(voices: Sequence[Tensor], own: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Contexts of the voices, with zeros behind the shorter ones, and own ones, zeros in front."""
    longest, most = (max(tensor.shape[2] for tensor in side) for side in (voices, own))
    return (
        _stacked([_padded(tensor, longest, in_front=False) for tensor in voices]),
        _stacked([_padded(tensor, most, in_front=True) for tensor in own]),
    )


def stack_encoder(
    pasts: Sequence[FusedEncoderPast], voices: Sequence[FusedEncoderPast]
) -> FusedEncoderPast:
    """Memories of all sessions as one; the context is that of the voices, then their own."""
    return FusedEncoderPast(
        torch.cat([past.lookahead for past in pasts]),
        torch.cat([past.upsample for past in pasts]),
        _stacked_parts([v.tokens[0] for v in voices], [p.tokens[0] for p in pasts]),
        _stacked_parts([v.frames[0] for v in voices], [p.frames[0] for p in pasts]),
    )


def stack_estimator(pasts: Sequence[FusedPast], voices: Sequence[FusedPast]) -> FusedPast:
    """Memories of all sessions as one; the context is that of the voices, then their own."""
    return FusedPast(
        _stacked([past.tails for past in pasts]),
        _stacked_parts([v.parts[0] for v in voices], [p.parts[0] for p in pasts]),
    )


@dataclass(frozen=True)
class Row:
    """One session of a batch.

    Attributes:
        index: which one.
        num_sessions: how many there are.
        count: its valid tokens or frames.
        left: tokens or frames before its next call that it has to remember at most.
    """

    index: int
    num_sessions: int
    count: int
    left: int

    def scaled(self, factor: int) -> Row:
        """The same at `factor` times the rate."""
        return Row(self.index, self.num_sessions, self.count * factor, self.left * factor)

    def of(self, batch: Tensor) -> Tensor:
        """View [G, ...] of the session in [G * N, ...]."""
        if self.num_sessions == 1:
            return batch
        return batch.unflatten(0, (-1, self.num_sessions))[:, self.index]

    def tail(self, extended: Tensor, size: int) -> Tensor:
        """View of the last rows before the end of the valid part, [G * N, size + T, D]."""
        return self.of(extended)[:, self.count : self.count + size]

    def behind(self, left: Tensor, new: Sequence[Tensor]) -> Tensor:
        """Last positions of the left context [L, G, S, ...] and the valid ones of the batch.

        A copy in any case: no session keeps the memory of others alive.
        """
        first = max(self.count - self.left, 0)
        made = torch.stack([self.of(layer)[:, first : self.count] for layer in new])
        kept = min(left.shape[2], self.left - made.shape[2])
        return torch.cat([left[:, :, left.shape[2] - kept :], made], dim=2) if kept else made


def encoder_behind(
    row: Row, past: FusedEncoderPast, trace: FusedEncoderTrace, factor: int
) -> FusedEncoderPast:
    """Memory of one session after a call of a batch.

    Args:
        row: the session, with its tokens.
        past: its memory before the call.
        trace: what the call left of all sessions.
        factor: frames for every token.
    """
    frames = row.scaled(factor)
    return FusedEncoderPast(
        row.tail(trace.lookahead, past.lookahead.shape[1]).clone(),
        frames.tail(trace.upsample, past.upsample.shape[1]).clone(),
        (row.behind(past.tokens[0], trace.tokens),),
        (frames.behind(past.frames[0], trace.frames),),
    )


def estimator_behind(row: Row, past: FusedPast, trace: FusedTrace) -> FusedPast:
    """The same of the estimator at one time; `row` counts frames."""
    tails = torch.stack([row.tail(inputs, past.tails.shape[2]) for inputs in trace.conv])
    return FusedPast(tails, (row.behind(past.parts[0], trace.new),))
