"""Who may attend to whom in the decoder, and at which rotary positions.

Shape legend: B batch, T new tokens, L keys (cached and new).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Window = int | None  # tokens that a layer sees, its own included; None: the whole context


class KeyValueStore(Protocol):
    """What the decoder asks of a cache: Hugging Face's `Cache` and our `SlotStep` both have it."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, H, T, K] and return all that the layer may attend to."""


class HuggingFaceCache(KeyValueStore, Protocol):
    """The part of transformers' `Cache` that tells how many keys an update will return."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens stored so far."""

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number of keys that the next update returns, and the index of the first one."""


@dataclass(frozen=True)
class AttentionPlan:
    """Positions and masks of one forward pass.

    Attributes:
        positions: rotary positions, [B or 1, T].
        masks: for every window that occurs among the layers a boolean [B or 1, 1, T, L], true
            where visible; None: plainly causal, or one token that sees every key.
    """

    positions: Tensor
    masks: Mapping[Window, Tensor | None]


def plan_attention(
    num_new: int,
    device: torch.device,
    windows: tuple[Window, ...],
    attention_mask: Tensor | Mapping[str, Tensor | None] | None = None,
    position_ids: Tensor | None = None,
    past: HuggingFaceCache | None = None,
) -> AttentionPlan:
    """Plan a pass over whole rows or over the next tokens of rows in a Hugging Face cache.

    Args:
        num_new: new tokens of a row, T.
        device: where the tensors live.
        windows: sliding window of every layer.
        attention_mask: [B, L] with zeros on padding of either side; or the ready-made masks
            [B, 1, T, L] that `generate()` passes along with a static cache.
        position_ids: [B or 1, T]. Where they return to 0 in a row without a past, a new packed
            sequence begins that does not see the one before.
        past: cache that the new tokens continue.
    """
    num_past = past.get_seq_length() if past is not None else 0
    if isinstance(attention_mask, Mapping) or (
        attention_mask is not None and attention_mask.dim() == 4
    ):
        return _plan_with_ready_masks(attention_mask, position_ids, windows, num_new, num_past)
    segments = None
    if position_ids is not None and _is_empty(num_past):
        segments = _packed_segments(position_ids)
    if position_ids is None:
        position_ids = _positions(attention_mask, num_new, num_past, device)
    padding = _padding_that_matters(attention_mask, _is_empty(num_past))
    masks: dict[Window, Tensor | None] = {}
    for layer, window in enumerate(windows):
        if window in masks:
            continue
        num_keys, first = past.get_mask_sizes(num_new, layer) if past is not None else (num_new, 0)
        plain = padding is None and segments is None and (window is None or num_keys <= window)
        if plain and (num_new == 1 or _is_empty(num_past)) and num_keys <= num_past + num_new:
            masks[window] = None
            continue
        queries = num_past + torch.arange(num_new, device=device)
        keys = first + torch.arange(num_keys, device=device)
        masks[window] = visible(queries, keys, window, padding, segments)
    return AttentionPlan(position_ids, masks)


def visible(
    queries: Tensor,
    keys: Tensor,
    window: Window,
    padding: Tensor | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """Boolean [B or 1, 1, T, L], true where the query may attend to the key.

    Args:
        queries: index of every query in its row, [T] or [B, T].
        keys: index of every key in its row, [L] or [B, L]; negative: no key there.
        window: tokens that a query sees, its own included.
        padding: [B, >= L] with zeros at padded indices.
        segments: [B or 1, L] packed sequence of every index.
    """
    q, k = torch.atleast_2d(queries)[:, :, None], torch.atleast_2d(keys)[:, None, :]
    mask = (k <= q) & (k >= 0)
    if window is not None:
        mask = mask & (k > q - window)
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    if padding is not None:
        mask = mask & padding.bool()[:, keys.clamp(0, padding.shape[1] - 1)][:, None, :]
        # A padding query sees no key at all; let it see itself to keep softmax finite.
        mask = mask | (k == q)
    return mask[:, None]


def _plan_with_ready_masks(
    given: Tensor | Mapping[str, Tensor | None],
    position_ids: Tensor | None,
    windows: tuple[Window, ...],
    num_new: int,
    num_past: int,
) -> AttentionPlan:
    if not isinstance(given, Mapping):
        given = {"full_attention": given, "sliding_attention": given}
    masks = {w: given["full_attention" if w is None else "sliding_attention"] for w in set(windows)}
    if position_ids is None:
        device = next((m.device for m in masks.values() if m is not None), None)
        position_ids = _positions(None, num_new, num_past, device)
    return AttentionPlan(position_ids, masks)


def _is_empty(num_past: int | Tensor) -> bool:
    # A static cache counts with a tensor; it always comes with ready-made masks after its prefill.
    return isinstance(num_past, int) and num_past == 0


def _positions(
    attention_mask: Tensor | None, num_new: int, num_past: int, device: torch.device | None
) -> Tensor:
    """Count tokens from each row's first one that is not padding."""
    if attention_mask is None:
        return num_past + torch.arange(num_new, device=device)[None]
    counted = attention_mask.long().cumsum(-1) - 1
    return counted.clamp(min=0)[:, -num_new:]


def _packed_segments(position_ids: Tensor) -> Tensor | None:
    """Number of the packed sequence that every token belongs to, None where none is packed."""
    starts = position_ids == 0
    if not bool(starts[:, 1:].any()):
        return None
    return starts.cumsum(-1)


def _padding_that_matters(attention_mask: Tensor | None, no_past: bool) -> Tensor | None:
    """Drop a mask that causality implies: none padded, or right padding in rows without a past."""
    if attention_mask is None:
        return None
    if no_past:
        valid = attention_mask.bool()
        needed = (valid[:, 1:] & ~valid[:, :-1]).any() | ~valid[:, 0].all()
    else:
        needed = ~attention_mask.bool().all()
    return attention_mask if bool(needed) else None
