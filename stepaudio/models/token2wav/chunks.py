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

import torch
from torch import Tensor

from stepaudio.models.token2wav.context import View


@dataclass(frozen=True)
class ChunkSchedule:
    """Where chunks begin, and how far they see to the left.

    Attributes:
        first: positions of the first chunk.
        later: positions of every other chunk.
        left: positions before its chunk that a position sees.
    """

    first: int
    later: int
    left: int

    def scaled(self, factor: int) -> ChunkSchedule:
        """The same chunks at `factor` times the rate."""
        return ChunkSchedule(self.first * factor, self.later * factor, self.left * factor)

    def starts(self, positions: Tensor) -> Tensor:
        """First position of the chunk that every position lies in."""
        behind = torch.div(positions - self.first, self.later, rounding_mode="floor")
        return torch.where(positions < self.first, 0, self.first + behind * self.later)

    def ends(self, positions: Tensor) -> Tensor:
        """First position behind the chunk that every position lies in."""
        starts = self.starts(positions)
        return starts + torch.where(starts == 0, self.first, self.later)

    def whole(self, start: int, stop: int) -> int:
        """Positions from `start`, where a chunk begins, that fill whole chunks before `stop`."""
        first = self.first if start == 0 else 0
        if stop - start < first:
            return 0
        return first + (stop - start - first) // self.later * self.later


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
    chunk_start = schedule.starts(query)
    window_start = (chunk_start - schedule.left).clamp(min=0)
    known = (key >= 0) & (offsets < spans.counts[:, None, None])
    own = known & (key >= window_start) & (key < schedule.ends(query)) | (key == query)
    prompt = torch.arange(prompt_size, device=device)
    visible = torch.cat([(prompt < prompt_lens).expand(-1, size, -1), own], dim=-1)
    distance = torch.cat([query - window_start + prompt_lens - prompt, query - key], dim=-1)
    longest = max(schedule.first, schedule.later)
    nearest, farthest = 1 - longest, prompt_size + schedule.left + longest - 1
    return View(visible[:, None], distance.clamp(nearest, farthest), nearest, farthest)
