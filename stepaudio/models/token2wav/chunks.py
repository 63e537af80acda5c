"""Chunks at absolute positions, and what the queries of a call see of them.

A position sees its whole chunk, a bounded number of positions before its chunk, and the prompt.
All three are functions of the absolute position, so that any cutting of the sequence into calls
gives the same result. The prompt sees itself only, so that it can be prepared once.

Distances are those of a sequence in which everything between the prompt and the left context has
been cut out: prompt, left context and chunk always lie next to each other, as they did at the
start, and no distance grows with the position.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from stepaudio.models.token2wav.context import View


@dataclass(frozen=True)
class ChunkSchedule:
    """Where chunks begin, and how far they see to the left.

    Attributes:
        early: positions of the first chunks.
        later: positions of every other chunk.
        left: positions before its chunk that a position sees.
    """

    early: tuple[int, ...]
    later: int
    left: int

    @classmethod
    def growing(cls, first: int, later: int, left: int, growth: float) -> ChunkSchedule:
        """Chunks from `first` to `later` positions, each at most `growth` times the one before.

        Args:
            first: positions of the first chunk.
            later: positions of a chunk at last.
            left: positions before its chunk that a position sees.
            growth: 0: without a limit.

        >>> ChunkSchedule.growing(6, 25, 50, 1.5).early
        (6, 9, 13, 19)
        """
        early = [first]
        while growth and (size := max(early[-1] + 1, int(growth * early[-1]))) < later:
            early.append(size)
        return cls(tuple(early), later, left)

    @property
    def longest(self) -> int:
        """Positions of the longest chunk."""
        return max(*self.early, self.later)

    @property
    def _edges(self) -> list[int]:
        """Where the early chunks begin, and where the last of them ends."""
        return list(accumulate(self.early, initial=0))

    def scaled(self, factor: int) -> ChunkSchedule:
        """The same chunks at `factor` times the rate."""
        early = tuple(size * factor for size in self.early)
        return ChunkSchedule(early, self.later * factor, self.left * factor)

    def bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """First position of the chunk that every position lies in, and first one behind it."""
        edges = torch.tensor(self._edges, device=positions.device)
        index = torch.bucketize(positions, edges, right=True).clamp(1, len(self.early))
        behind = torch.div(positions - edges[-1], self.later, rounding_mode="floor")
        start = edges[-1] + behind * self.later
        is_early = positions < edges[-1]
        return (
            torch.where(is_early, edges[index - 1], start),
            torch.where(is_early, edges[index], start + self.later),
        )

    def size_from(self, start: int) -> int:
        """Positions of the chunk that begins at `start`."""
        sizes = zip(self._edges, self.early, strict=False)
        return next((size for edge, size in sizes if edge == start), self.later)

    def whole(self, start: int, stop: int) -> int:
        """Positions from `start`, where a chunk begins, that fill whole chunks before `stop`."""
        position = start
        for edge in self._edges:
            if edge > stop:
                return position - start
            position = max(position, edge)
        return position - start + (stop - position) // self.later * self.later


@dataclass(frozen=True)
class Spans:
    """Which positions every row of a call holds.

    Attributes:
        prompt_lens: [B], positions of the prompt.
        starts: [B], absolute position of the first one of this call; the prompt does not count.
        counts: [B], positions of this call.
    """

    prompt_lens: Tensor
    starts: Tensor
    counts: Tensor

    def scaled(self, factor: int) -> Spans:
        """The same spans at `factor` times the rate."""
        return Spans(self.prompt_lens * factor, self.starts * factor, self.counts * factor)


def prompt_view(lens: Tensor, size: int) -> View:
    """View of prompts that see themselves, [B] lengths in [B, size] positions."""
    index = torch.arange(size, device=lens.device)
    distance = index[:, None] - index[None, :]
    # Padding sees itself, because a softmax over nothing is not a number.
    visible = (index < lens[:, None])[:, None, :] | (distance == 0)
    return View(visible[:, None], distance[None], 1 - size, size - 1)


def context_view(
    schedule: ChunkSchedule, spans: Spans, prompt_size: int, left_size: int, size: int
) -> View:
    """View of one call on prompt, left context and itself.

    Args:
        schedule: chunks and their left context.
        spans: positions of every row.
        prompt_size: key positions of the prompts, the valid ones first.
        left_size: key positions before the call, the newest one last.
        size: positions of the call, the valid ones first.
    """
    device = spans.starts.device
    starts, prompt_lens = spans.starts[:, None, None], spans.prompt_lens[:, None, None]
    offsets = torch.arange(-left_size, size, device=device)
    query = starts + torch.arange(size, device=device)[None, :, None]  # [B, T, 1]
    key = starts + offsets  # [B, 1, left + T]
    chunk_start, chunk_end = schedule.bounds(query)
    window_start = (chunk_start - schedule.left).clamp(min=0)
    known = (key >= 0) & (offsets < spans.counts[:, None, None])
    own = known & (key >= window_start) & (key < chunk_end) | (key == query)
    prompt = torch.arange(prompt_size, device=device)
    visible = torch.cat([(prompt < prompt_lens).expand(-1, size, -1), own], dim=-1)
    distance = torch.cat([query - window_start + prompt_lens - prompt, query - key], dim=-1)
    longest = schedule.longest
    nearest, farthest = 1 - longest, prompt_size + schedule.left + longest - 1
    return View(visible[:, None], distance.clamp(nearest, farthest), nearest, farthest)
