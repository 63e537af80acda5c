"""Streaming of layers with a bounded reach, by recomputing the edges of windows.

A stage maps input frames to output frames and pads with zeros (or reflects) at the ends of what it
is given. Run over a window of the signal, it gives the same outputs as over the whole signal,
except near the cuts: `Reach.context` outputs there are wrong and dropped. At a true end of the
signal nothing is dropped, and the padding is that of the whole signal. So offline and streaming
share all code, and the only state is the input that later windows still need.

Shape legend: B batch, C channels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Reach:
    """Integer geometry of a stage.

    `n` inputs give ``(n - lead) * up // down + extra`` outputs, and output t of a window lies
    ``t * down / up`` inputs behind its start.

    Attributes:
        up: outputs for `down` inputs.
        down: see `up`; one of both is 1.
        lead: inputs that give no output of their own.
        extra: outputs at the end beyond those.
        context: outputs next to a cut that are not those of the whole signal.
        left_context: the same at a window's start, where it differs.
    """

    up: int = 1
    down: int = 1
    lead: int = 0
    extra: int = 0
    context: int = 0
    left_context: int | None = None

    def outputs(self, num_inputs: int) -> int:
        """Outputs of so many inputs."""
        if num_inputs <= 0:
            return 0
        return max(0, (num_inputs - self.lead) * self.up // self.down + self.extra)

    def ready(self, num_inputs: int, *, last: bool) -> int:
        """Outputs that no further input can change."""
        return max(0, self.outputs(num_inputs) - (0 if last else self.context))

    def window_start(self, done: int) -> int:
        """First input of the window that continues behind `done` outputs."""
        context = self.context if self.left_context is None else self.left_context
        return max(0, done - context) // self.up * self.down


@dataclass(frozen=True)
class StageTail:
    """What one session's stage remembers.

    Attributes:
        values: input frames from `start` on, [C, n].
        start: absolute position of the first of them.
        done: outputs given so far.
        side: second input, at the rate of the outputs, from the same moment on; None without one.
    """

    values: Tensor
    start: int = 0
    done: int = 0
    side: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """Which windows a batch holds: sessions, number of inputs and absolute start of each."""

    sessions: tuple[int, ...]
    lens: tuple[int, ...]
    starts: tuple[int, ...]


StageFunction = Callable[[Tensor, Tensor | None, Rows], Tensor]


def valid_mask(lens: Sequence[int], like: Tensor) -> Tensor | None:
    """Mask [B, 1, T] of the type of `like` [B, C, T], one inside each length; None if all are T."""
    size = like.shape[-1]
    if all(length == size for length in lens):
        return None
    index = torch.arange(size, device=like.device)
    inside = index[None, :] < torch.tensor(lens, device=like.device)[:, None]
    return inside[:, None, :].to(like.dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero behind each row's end."""
    return x if mask is None else x * mask


def stack_rows(rows: Sequence[Tensor]) -> Tensor:
    """Stack [C, n] tensors to [B, C, longest], zeros behind the shorter ones."""
    size = max(row.shape[-1] for row in rows)
    if all(row.shape[-1] == size for row in rows):
        return torch.stack(list(rows))
    return torch.stack([F.pad(row, (0, size - row.shape[-1])) for row in rows])


@dataclass(frozen=True)
class _Window:
    """One session's part of a batch."""

    values: Tensor
    side: Tensor | None
    start: int
    size: int
    done: int
    ready: int


def _extended(held: Tensor | None, new: Tensor) -> Tensor:
    if held is None or not held.shape[-1]:
        return new
    return torch.cat([held, new], dim=-1) if new.shape[-1] else held


def _window(
    reach: Reach, tail: StageTail, new: Tensor, new_side: Tensor | None, last: bool
) -> _Window:
    values = _extended(tail.values, new)
    size = values.shape[-1]
    side = None
    if new_side is not None:
        side = _extended(tail.side, new_side)
        size = min(size, (side.shape[-1] - reach.extra) * reach.down // reach.up)
    ready = reach.ready(tail.start + size, last=last) if size > 0 else tail.done
    return _Window(values, side, tail.start, max(size, 0), tail.done, max(ready, tail.done))


def _remaining(reach: Reach, window: _Window) -> StageTail:
    """What later windows need; a copy, so that the whole window can be freed."""
    dropped = reach.window_start(window.ready) - window.start
    side = window.side
    if side is not None:
        side = side[:, dropped * reach.up // reach.down :].clone()
    values = window.values[:, dropped:].clone()
    return StageTail(values, window.start + dropped, window.ready, side)


def run_stage(
    reach: Reach,
    function: StageFunction,
    news: Sequence[Tensor],
    tails: Sequence[StageTail],
    last: Sequence[bool],
    sides: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], list[StageTail]]:
    """Advance one stage of several sessions in one batch.

    Args:
        reach: geometry of the stage.
        function: maps windows [B, C, T], side inputs and `Rows` to outputs [B, C', T'].
        news: next inputs of every session, [C, n] with any n.
        tails: what the previous call returned.
        last: whether a session's input ends here.
        sides: next frames of the second input.

    Returns:
        New outputs [C', m] of every session, and what the next call takes.
    """
    given = [None] * len(news) if sides is None else list(sides)
    windows = [_window(reach, *row) for row in zip(tails, news, given, last, strict=True)]
    active = [i for i, window in enumerate(windows) if window.ready > window.done]
    outputs = {}
    if active:
        chosen = [windows[i] for i in active]
        rows = Rows(tuple(active), tuple(w.size for w in chosen), tuple(w.start for w in chosen))
        stacked_side = None
        if sides is not None:
            counts = [reach.outputs(w.size) for w in chosen]
            stacked_side = stack_rows(
                [w.side[:, :n] for w, n in zip(chosen, counts, strict=True) if w.side is not None]
            )
        result = function(stack_rows([w.values[:, : w.size] for w in chosen]), stacked_side, rows)
        for index, i in enumerate(active):
            first = windows[i].start * reach.up // reach.down
            done, ready = windows[i].done, windows[i].ready
            outputs[i] = result[index, :, done - first : ready - first]
        empty = result[0, :, :0]
    else:
        empty = news[0][:0, :0]
    return (
        [outputs.get(i, empty) for i in range(len(news))],
        [_remaining(reach, window) for window in windows],
    )
