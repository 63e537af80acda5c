"""The upsampling conformer for inference with few operations; see `fused_layers`.

The layers of the distances see weights only: what they make of a range of distances is computed
once for a voice.

Shape legend: B batch, T positions of this call, S positions of a part of the context, R distances,
H heads, K head width, D width, L layers of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.conformer import (
    LOOKAHEAD_SLOPE,
    ConformerLayer,
    UpsampleConformer,
    distance_table,
)
from stepaudio.models.token2wav.context import View, additive_mask
from stepaudio.models.token2wav.fused_layers import FusedConv, FusedLinear, attend_joined


@dataclass(frozen=True)
class Distances:
    """What the layers of a stage make of distances.

    Attributes:
        nearest: smallest distance.
        tables: [H, K, R] for every layer, one column for each distance.
    """

    nearest: int
    tables: tuple[Tensor, ...]

    def within(self, view: View) -> list[Tensor]:
        """The columns of a view's distances."""
        columns = slice(view.nearest - self.nearest, view.farthest - self.nearest + 1)
        return [table[..., columns] for table in self.tables]


@dataclass(frozen=True)
class FusedEncoderPast:
    """What the encoder remembers of earlier calls.

    Attributes:
        lookahead: [B, n, D] tail of the lookahead layer.
        upsample: [B, n, D] tail of the upsampling convolution.
        tokens: keys and values at the rate of tokens, [L, B, S, 2 * H, K], one entry for each part
            of the context, in the order of the views.
        frames: the same at the rate of frames.
    """

    lookahead: Tensor
    upsample: Tensor
    tokens: tuple[Tensor, ...] = ()
    frames: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class FusedEncoderTrace:
    """What a call leaves to remember.

    Attributes:
        lookahead, upsample: inputs of convolutions with their tails before them.
        tokens, frames: new keys and values of every layer, [B, T, 2 * H, K].
    """

    lookahead: Tensor
    upsample: Tensor
    tokens: list[Tensor]
    frames: list[Tensor]


class _FusedLayer:
    """One layer; the bias of content is part of the queries, the scale part of the distances."""

    def __init__(self, layer: ConformerLayer) -> None:
        attn = layer.self_attn
        self._heads = attn.num_heads
        self._qkv = FusedLinear(attn.linear_q, attn.linear_k, attn.linear_v)
        content = attn.pos_bias_u
        self._qkv.bias[: content.numel()] += content.flatten()
        self._to_distance = attn.pos_bias_v - content
        self._pos_weight = attn.linear_pos.weight
        ff = layer.feed_forward
        self._out, self._w_1, self._w_2 = (
            FusedLinear(f) for f in (attn.linear_out, ff.w_1, ff.w_2)
        )
        self._norm_mha, self._norm_ff = layer.norm_mha, layer.norm_ff

    def distances(self, table_RD: Tensor) -> Tensor:
        """The columns of `Distances` for rows of `distance_table`."""
        heads = F.linear(table_RD, self._pos_weight).unflatten(-1, (self._heads, -1))
        return (heads * heads.shape[-1] ** -0.5).permute(1, 2, 0).contiguous()

    def __call__(
        self,
        x_BTD: Tensor,
        past: Sequence[Tensor],
        table_HKR: Tensor,
        index_BHTS: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Output [B, T, D]; keys and values of this call."""
        qkv = self._qkv(self._norm_mha(x_BTD)).unflatten(-1, (3 * self._heads, -1))
        queries, new = qkv[:, :, : self._heads], qkv[:, :, self._heads :]
        by_distance = (queries + self._to_distance).transpose(1, 2) @ table_HKR
        bias = by_distance.gather(-1, index_BHTS)
        if mask is not None:
            bias += mask
        context = torch.cat([*past, new], dim=1) if past else new
        x_BTD = x_BTD + self._out(attend_joined(queries, context, bias))
        return x_BTD + self._w_2(F.silu(self._w_1(self._norm_ff(x_BTD)))), new


class FusedEncoder:
    """Embedded tokens to frames, derived from an `UpsampleConformer`; see the module's text."""

    @torch.no_grad()
    def __init__(self, encoder: UpsampleConformer) -> None:
        self._source, self._heads = encoder, encoder.config.attention_heads
        self._stages = [
            [_FusedLayer(layer) for layer in layers if isinstance(layer, ConformerLayer)]
            for layers in (encoder.encoders, encoder.up_encoders)
        ]
        lookahead = encoder.pre_lookahead_layer
        self._lookahead = FusedConv(lookahead.conv1), FusedConv(lookahead.conv2)
        self._upsample = FusedConv(encoder.up_layer.conv)

    def empty_past(self) -> FusedEncoderPast:
        """Past of one sequence that has just begun."""
        past = self._source.empty_past(1)
        return FusedEncoderPast(past.lookahead.mT, past.upsample.mT)

    def distances(self, nearest: int, farthest: int) -> tuple[Distances, Distances]:
        """What both stages make of distances in tokens, and of as many times more frames."""
        width, like = self._source.config.output_size, self._source.after_norm.weight
        factor = self._source.config.up_scale_factor
        made = []
        for layers, rate in zip(self._stages, (1, factor), strict=True):
            # A frame is up to factor - 1 away from the first one of its token.
            low, high = rate * nearest - (rate - 1), rate * farthest + rate - 1
            table = distance_table(low, high, width, like)
            made.append(Distances(low, tuple(layer.distances(table) for layer in layers)))
        return made[0], made[1]

    def __call__(
        self,
        x_BTD: Tensor,
        num_valid: Tensor,
        past: FusedEncoderPast,
        views: tuple[View, View],
        distances: tuple[Distances, Distances],
    ) -> tuple[Tensor, FusedEncoderTrace]:
        """Encode the tokens of one call; see `UpsampleConformer.forward`.

        Args:
            x_BTD: embedded tokens, T of this call and then the lookahead.
            num_valid: [B], how many of T + lookahead there are.
            past: memory of earlier calls.
            views: of the layers at the rate of tokens and at the rate of frames.
            distances: what the method of this name returned for at least the views' ranges.
        """
        source = self._source
        inside = torch.arange(x_BTD.shape[1], device=x_BTD.device) < num_valid[:, None]
        x = source.embed(x_BTD) * inside[..., None]
        ahead = F.leaky_relu(self._lookahead[0](x), LOOKAHEAD_SLOPE)
        lookahead = torch.cat([past.lookahead, ahead], dim=1)
        out = self._lookahead[1](lookahead)
        x, tokens = self._layers(0, out + x[:, : out.shape[1]], past.tokens, views, distances)
        repeated = x.repeat_interleave(source.config.up_scale_factor, dim=1)
        upsample = torch.cat([past.upsample, repeated], dim=1)
        x = source.up_embed(self._upsample(upsample))
        x, frames = self._layers(1, x, past.frames, views, distances)
        return source.after_norm(x), FusedEncoderTrace(lookahead, upsample, tokens, frames)

    def _layers(
        self,
        stage: int,
        x_BTD: Tensor,
        past: Sequence[Tensor],
        views: tuple[View, View],
        distances: tuple[Distances, Distances],
    ) -> tuple[Tensor, list[Tensor]]:
        layers, view = self._stages[stage], views[stage]
        index = (view.distance - view.nearest)[:, None]
        index = index.expand(len(x_BTD), self._heads, -1, -1)
        mask, new = additive_mask(view.visible, x_BTD), []
        for number, (layer, table) in enumerate(
            zip(layers, distances[stage].within(view), strict=True)
        ):
            x_BTD, made = layer(x_BTD, [part[number] for part in past], table, index, mask)
            new.append(made)
        return x_BTD, new
