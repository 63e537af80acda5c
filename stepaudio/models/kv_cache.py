"""Slot cache: keys and values of a fixed number of independent sequences.

A serving engine keeps one sequence per slot. `SlotKVCache.begin` describes the next pass over some
of the slots, ragged or not, as a `SlotStep`; the model takes it as ``past_key_values`` and calls
its `update` as it would a Hugging Face cache's. Layers with a sliding window write into a ring, so
their cost does not grow with the length of a session.

Shape legend: N slots, B rows of a pass, T new tokens, L keys, H key and value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepaudio.errors import CapacityError
from stepaudio.models.config import TextConfig
from stepaudio.models.masks import AttentionPlan, Window, visible
from stepaudio.models.passes import SlotRows, WindowRows

DEFAULT_ROLLBACK = 64  # tokens that can be taken back behind a full sliding window


class SlotKVCache:
    """Keys and values of `num_slots` sequences of at most `max_len` tokens.

    Attributes:
        num_slots: sequences held.
        max_len: tokens of the longest sequence.
        lengths: tokens stored in every slot; change it through the methods only.
        buffers: for every layer [2, N, H, size + 1, K], keys and values. The last position takes
            what padding and idle rows write.
    """

    def __init__(
        self,
        config: TextConfig,
        num_slots: int,
        max_len: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        rollback: int = DEFAULT_ROLLBACK,
    ) -> None:
        """Allocate the buffers.

        Args:
            config: decoder whose layers are cached.
            num_slots: sequences held.
            max_len: tokens of the longest sequence, at most `max_position_embeddings`.
            dtype: type of keys and values.
            device: where they live.
            rollback: tokens that `truncate` can take back behind a full sliding window.

        Raises:
            CapacityError: `max_len` exceeds the positions of the model.
        """
        if max_len > config.max_position_embeddings:
            raise CapacityError(
                f"a cache of {max_len} tokens exceeds the model's context of "
                f"{config.max_position_embeddings} tokens (max_position_embeddings)"
            )
        self.num_slots = num_slots
        self.max_len = max_len
        self.rollback = rollback
        self.windows: tuple[Window, ...] = config.layer_windows
        self.lengths = [0] * num_slots
        heads, width = config.num_key_value_heads, config.head_width
        self.buffers = [
            torch.zeros(2, num_slots, heads, self.size(w) + 1, width, dtype=dtype, device=device)
            for w in self.windows
        ]

    @property
    def device(self) -> torch.device:
        """Where the buffers live."""
        return self.buffers[0].device

    def size(self, window: Window) -> int:
        """Positions of a layer with this window."""
        return self.max_len if window is None else min(window + self.rollback, self.max_len)

    def begin(
        self, slots: Sequence[int], num_new: int, lens: Sequence[int] | None = None
    ) -> SlotStep:
        """Describe a pass over `num_new` tokens of each of some slots.

        Args:
            slots: slot of every row of the pass.
            num_new: tokens of a row, padding included.
            lens: valid tokens of every row, at its left; 0 leaves a slot as it is. None: all.

        Raises:
            CapacityError: the tokens do not fit into a slot.
        """
        lens = [num_new] * len(slots) if lens is None else list(lens)
        for slot, count in zip(slots, lens, strict=True):
            if self.lengths[slot] + count > self.max_len:
                raise CapacityError(
                    f"slot {slot} holds {self.lengths[slot]} of {self.max_len} tokens; "
                    f"{count} more do not fit: use a longer cache or shorter input"
                )
        return SlotStep(self, list(slots), num_new, lens)

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens of a slot.

        Raises:
            ValueError: the slot holds fewer tokens.
            CapacityError: a sliding window has overwritten tokens that are needed again.
        """
        held = self.lengths[slot]
        if not 0 <= length <= held:
            raise ValueError(f"slot {slot} holds {held} tokens, cannot keep {length}")
        for window in self.windows:
            if window is None or length == 0:
                continue
            first_needed = max(length - window + 1, 0)
            if first_needed < held - self.size(window):
                raise CapacityError(
                    f"slot {slot}: cannot take back {held - length} tokens, layers with a sliding "
                    f"window keep {self.rollback}; create the cache with a larger rollback"
                )
        self.lengths[slot] = length

    def reset(self, mask: Sequence[bool] | Tensor) -> None:
        """Empty the slots where `mask` [N] is true."""
        for slot, chosen in enumerate(mask):
            if chosen:
                self.lengths[slot] = 0

    def copy_slot(self, source: int, target: int) -> None:
        """Make `target` hold what `source` holds."""
        held = self.lengths[source]
        for buffer in self.buffers:
            used = min(held, buffer.shape[3])
            buffer[:, target, :, :used].copy_(buffer[:, source, :, :used])
        self.lengths[target] = held


def store(
    buffer: Tensor, keys: Tensor, values: Tensor, rows: SlotRows, place: WindowRows
) -> tuple[Tensor, Tensor]:
    """Write new keys and values [B, H, T, K] and return all that the rows may see.

    TorchScript can compile it, as part of the fused layers.

    Args:
        buffer: one of a cache's.
        keys: keys behind rotary embedding.
        values: values.
        rows: which slots.
        place: where in them.

    Returns:
        Keys and values, [B, H, L, K] each; views of the buffer where the slots are consecutive.
    """
    batch, num_new = keys.size(0), keys.size(2)
    seen = keys, values
    if place.joins and not rows.is_fresh:
        old_keys, old_values = _read(buffer, rows, batch, place.num_read)
        seen = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
    if place.start >= 0:
        stop = place.start + num_new
        target = buffer[:, rows.first : rows.first + batch, :, place.start : stop]
        target[0].copy_(keys)
        target[1].copy_(values)
    else:
        width = keys.size(3)
        flat = buffer.view(2, -1, width)
        flat[0].index_copy_(0, place.write, keys.reshape(-1, width))
        flat[1].index_copy_(0, place.write, values.reshape(-1, width))
    if rows.is_fresh or place.joins:
        return seen
    return _read(buffer, rows, batch, place.num_read)


def _read(buffer: Tensor, rows: SlotRows, batch: int, num_read: int) -> tuple[Tensor, Tensor]:
    """Stored keys and values of the rows, [B, H, L, K] each."""
    if rows.first >= 0:
        held = buffer[:, rows.first : rows.first + batch, :, :num_read]
        return held[0], held[1]
    stored = buffer[:, :, :, :num_read]
    return stored[0].index_select(0, rows.slots), stored[1].index_select(0, rows.slots)


class SlotStep:
    """One pass over some slots: where it writes, what it sees. The model's ``past_key_values``.

    The lengths of the slots grow when the last layer has been updated.

    Attributes:
        plan: positions and masks of the pass.
        rows: the slots of the pass.
        places: for every window where the pass writes and reads.
    """

    def __init__(self, cache: SlotKVCache, slots: list[int], num_new: int, lens: list[int]) -> None:
        self._cache = cache
        self._slots = slots
        self._lens = lens
        self._held = [cache.lengths[slot] for slot in slots]
        first, device = slots[0], cache.device
        is_run = slots == list(range(first, first + len(slots)))
        slot_rows = torch.tensor(slots, device=device)
        self.rows = SlotRows(slot_rows, first if is_run else -1, not any(self._held))
        positions = torch.tensor(self._held, device=device)[:, None]
        if num_new > 1:
            positions = positions + torch.arange(num_new, device=device)
        masks: dict[Window, Tensor | None] = {}
        self.places: dict[Window, WindowRows] = {}
        for window in set(cache.windows):
            place = self._place(window, positions)
            self.places[window] = place
            masks[window] = self._mask(window, place, positions)
        self.plan = AttentionPlan(positions, masks)

    @property
    def buffers(self) -> list[Tensor]:
        """Those of the cache, one for every layer."""
        return self._cache.buffers

    def _place(self, window: Window, positions: Tensor) -> WindowRows:
        num_new, size = positions.shape[1], self._cache.size(window)
        joins = window is not None and num_new > 1
        num_read = min(max(self._held) + (0 if joins else num_new), size)
        is_full = all(count == num_new for count in self._lens)
        start = self._held[0] if window is None else self._held[0] % size
        is_level = min(self._held) == max(self._held)
        if is_full and is_level and self.rows.first >= 0 and start + num_new <= size:
            return WindowRows(start, positions.new_empty(0), num_read, joins)
        targets = positions if window is None else positions % size
        if not is_full or num_new > size:
            offsets = torch.arange(num_new, device=positions.device)
            lens = torch.tensor(self._lens, device=positions.device)[:, None]
            # Of more new tokens than a ring has room for, only the last ones are kept.
            kept = (offsets < lens) & (offsets >= lens - size)
            targets = torch.where(kept, targets, size)
        heads = self._cache.buffers[0].shape[2]
        lines = self.rows.slots[:, None] * heads + torch.arange(heads, device=positions.device)
        write = lines[:, :, None] * (size + 1) + targets[:, None]
        return WindowRows(-1, write.flatten(), num_read, joins)

    def _mask(self, window: Window, place: WindowRows, positions: Tensor) -> Tensor | None:
        num_new, held = positions.shape[1], self._held
        fits = window is None or max(held) + num_new <= window
        single = num_new == 1 and min(held) == max(held)
        if fits and (self.rows.is_fresh or single):
            return None
        stored = torch.arange(place.num_read, device=positions.device)
        if window is None:
            return visible(positions, stored, window)
        # A ring entry holds the newest position that is congruent to it.
        last = positions[:, :1] - (1 if place.joins else 0)
        keys = last - (last - stored) % self._cache.size(window)
        if place.joins:
            keys = torch.cat([keys, positions], dim=1)
        return visible(positions, keys, window)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values [B, H, T, K] and return all that the rows may see.

        Args:
            key_states: keys behind rotary embedding.
            value_states: values.
            layer_idx: layer that calls.
            *args: accepted for Hugging Face's signature, unused.
            **kwargs: the same.

        Returns:
            Keys and values, [B, H, L, K] each; views of the buffers where the slots of the pass
            are consecutive.
        """
        place = self.places[self._cache.windows[layer_idx]]
        seen = store(self.buffers[layer_idx], key_states, value_states, self.rows, place)
        if layer_idx == len(self.buffers) - 1:
            self.advance()
        return seen

    def advance(self) -> None:
        """Note that the last layer has written."""
        for slot, held, count in zip(self._slots, self._held, self._lens, strict=True):
            self._cache.lengths[slot] = held + count
