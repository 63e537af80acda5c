"""Memory of repetition aware sampling (VALL-E 2, arXiv 2406.05370): the latest tokens of slots.

Shape legend: N slots, B rows of a pass, W window of latest tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NONE = -1  # where nothing was generated yet


class RepetitionMemory:
    """Latest tokens of every slot, and the random numbers to draw again with.

    Args:
        num_slots: N.
        first_code_id: audio tokens are those from this id on; no other is drawn again.
        device: where the tokens are.
    """

    def __init__(self, num_slots: int, first_code_id: int, device: torch.device) -> None:
        self._first_code_id = first_code_id
        self._latest = torch.full((num_slots, 0), _NONE, device=device)
        self._window = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._limit = torch.ones(num_slots, device=device)
        self._uniform = torch.zeros(num_slots, 0, device=device)

    def assign(self, slot: int, window: int, max_share: float) -> None:
        """Begin a completion in a slot; a window of 0 finds no repetition."""
        if window > self._latest.shape[1]:
            self._latest = widened(self._latest.flip(1), window, _NONE).flip(1)
        self._latest[slot] = _NONE
        self._window[slot] = window
        self._limit[slot] = max_share * window

    def draw_ahead(self, slot: int, numbers: Tensor) -> None:
        """Keep the random numbers [tokens] of a whole completion."""
        self._uniform = widened(self._uniform, len(numbers))
        self._uniform[slot, : len(numbers)] = numbers

    def move(self, source: int, target: int) -> None:
        """Make slot `target` continue what slot `source` was sampling."""
        for tensor in (self._latest, self._window, self._limit, self._uniform):
            tensor[target] = tensor[source]

    def uniform(self, rows: Tensor, num_drawn: Tensor) -> Tensor:
        """Random numbers [B] for slots `rows` [B] that have drawn so many tokens [B]."""
        if not self._uniform.shape[1]:
            return torch.zeros(len(rows), device=rows.device)
        return self._uniform[rows, num_drawn.clamp(max=self._uniform.shape[1] - 1)]

    def is_repeated(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Whether each of the tokens `ids` [B] is too frequent in the window of its slot."""
        width = self._latest.shape[1]
        age = width - torch.arange(width, device=ids.device)
        inside = age <= self._window[rows, None]
        count = ((self._latest[rows] == ids[:, None]) & inside).sum(1)
        return (ids >= self._first_code_id) & (count > self._limit[rows])

    def record(self, ids: Tensor, rows: Tensor) -> None:
        """Add the chosen tokens [B] of slots `rows` [B]."""
        if self._latest.shape[1]:
            self._latest[rows] = torch.cat([self._latest[rows, 1:], ids[:, None]], dim=1)


def widened(table: Tensor, width: int, fill: float = 0.0) -> Tensor:
    """The table [N, W], with columns added on the right where it has fewer than `width`."""
    missing = width - table.shape[1]
    if missing <= 0:
        return table
    return torch.cat([table, table.new_full((len(table), missing), fill)], dim=1)
