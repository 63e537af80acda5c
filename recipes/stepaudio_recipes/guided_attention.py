"""Guided attention: some heads are shown where to look (after arXiv 1710.08969).

A decoder finds out by itself where in its prompt it is reading, but only after many thousand
updates. When recordings are aligned with their readings, some heads can be told.

Shape legend: B rows, T tokens, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepaudio.models.backbone import Backbone, DecoderAttention
from stepaudio.models.layers import apply_rotary

_SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class GuideConfig:
    """Which heads are guided, and how.

    Attributes:
        weight: of the loss; 0: none.
        layers: decoder layers, one head of each.
        head: query head of these layers.
        width: deviation of the Gaussian around the place, in tokens.
    """

    weight: float = 0.0
    layers: tuple[int, ...] = (3, 5, 7, 9)
    head: int = 0
    width: float = 1.0


class AttentionProbe:
    """Queries, keys and rotary tables of some layers, as the last forward pass had them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Tensor, ...]] = {}

    @contextmanager
    def watch(self, backbone: Backbone, layers: Sequence[int]) -> Iterator[AttentionProbe]:
        """Record inside the context."""
        handles = []
        for index in layers:
            attention = backbone.get_submodule(f"layers.{index}.self_attn")
            for name in ("q_proj", "k_proj"):
                handles.append(
                    attention.get_submodule(name).register_forward_hook(
                        self._keep(f"{index}{name}")
                    )
                )
            handles.append(attention.register_forward_pre_hook(self._keep_rotary(f"{index}")))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, key: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            self._seen[key] = (output,)

        return hook

    def _keep_rotary(self, key: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._seen[key] = tuple(inputs[1])

        return hook

    def logits(self, attention: DecoderAttention, index: int, head: int) -> Tensor:
        """Attention logits [B, T, T] of one query head."""
        (queries,), (keys,) = self._seen[f"{index}q_proj"], self._seen[f"{index}k_proj"]
        cos, sin = (table[:, 0] for table in self._seen[f"{index}"])
        width = attention.head_width
        group = head * keys.shape[-1] // queries.shape[-1]
        q = apply_rotary(queries[..., head * width : (head + 1) * width], cos, sin)
        k = apply_rotary(keys[..., group * width : (group + 1) * width], cos, sin)
        return q.float() @ k.float().transpose(1, 2) * width**-0.5


def place_weights(places: Tensor, readings: Tensor, width: float) -> Tensor:
    """How near a key is to the place that a query should look at, 0 to 1, [B, T, T].

    Args:
        places: [B, T] token that every query should look at, a fraction between two; negative
            where it is free.
        readings: [B, 2] first token of the reading, and the one behind its last; zero outside.
        width: see `GuideConfig`.
    """
    index = torch.arange(places.shape[1], device=places.device)
    is_key = (index >= readings[:, :1]) & (index < readings[:, 1:])
    distance = (places[:, :, None] - index) / width
    near = (-0.5 * distance.square()).exp()
    return near * (places >= 0)[:, :, None] * is_key[:, None, :]


def guide_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """Mean negative logarithm of the attention that falls near its place.

    Args:
        logits: [B, T, T] attention logits.
        weights: [B, T, T] of `place_weights`.
    """
    size = logits.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=logits.device).triu(1)
    attention = logits.masked_fill(future, float("-inf")).softmax(-1)
    guided = weights.sum(-1) > 0
    near = (attention * weights).sum(-1)[guided]
    return -near.clamp(min=_SMALLEST).log().mean()


def guided(
    probe: AttentionProbe,
    backbone: Backbone,
    config: GuideConfig,
    places: Tensor,
    readings: Tensor,
) -> Tensor:
    """Mean `guide_loss` of the guided heads; arguments as of `place_weights`."""
    weights = place_weights(places, readings, config.width)
    losses = []
    for index in config.layers:
        attention: DecoderAttention = backbone.get_submodule(f"layers.{index}.self_attn")  # type: ignore[assignment]
        losses.append(guide_loss(probe.logits(attention, index, config.head), weights))
    return torch.stack(losses).mean()
