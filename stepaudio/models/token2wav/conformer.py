"""Upsampling conformer of the flow: embedded audio tokens to frames (specification, section 10).

Relative positions as in Transformer-XL (arXiv 1901.02860, section 3.3): the score of query and key
gains a term of their distance, whose sines and cosines go through a layer of their own. The table
covers the distances of one call only, so that it does not grow with the position.

Shape legend: B batch, T positions of this call, S keys, R distances, H heads, K head width,
D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.models.token2wav.context import KeyValues, View, attend
from stepaudio.models.token2wav.flow_config import FlowEncoderConfig

LOOKAHEAD_SLOPE = 0.01
_BLOCK_EPS = 1e-12
_LOOKAHEAD_KERNEL = 3  # of the second convolution


def distance_table(nearest: int, farthest: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines, interleaved, of a range of distances: [R, width].

    Args:
        nearest: smallest distance, that of row 0.
        farthest: largest distance.
        width: even.
        like: tensor whose device and type the table gets.
    """
    distances = torch.arange(nearest, farthest + 1, device=like.device).float()
    exponents = torch.arange(0, width, 2, device=like.device).float()
    angles = distances[:, None] * torch.exp(exponents * (-math.log(10_000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(like.dtype)


class RelPositionAttention(nn.Module):
    """Multi-head attention with relative positions."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        width, heads = config.output_size, config.attention_heads
        self.num_heads = heads
        self.dropout = config.attention_dropout_rate
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width, bias=config.key_bias)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, width // heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def forward(
        self, x_BTD: Tensor, past: Sequence[tuple[Tensor, Tensor]], view: View, table_RD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to earlier keys and to those of this call.

        Args:
            x_BTD: input.
            past: earlier keys and values, [B, H, *, K] each, in the order of `view`.
            view: what is visible, and how far away.
            table_RD: `distance_table` of the view's range.

        Returns:
            Output [B, T, D]; keys and values of this call, [B, H, T, K].
        """
        q, k, v = (self._heads(f(x_BTD)) for f in (self.linear_q, self.linear_k, self.linear_v))
        p_HRK = self._heads(self.linear_pos(table_RD))
        scale = q.shape[-1] ** -0.5
        by_distance = (q + self.pos_bias_v[:, None]) @ p_HRK.transpose(-2, -1) * scale  # [B,H,T,R]
        index = (view.distance - view.nearest)[:, None]
        bias = by_distance.gather(-1, index.expand(*by_distance.shape[:-1], index.shape[-1]))
        if view.visible is not None:
            bias = bias.masked_fill(~view.visible, -math.inf)
        keys = torch.cat([*(pair[0] for pair in past), k], dim=2)
        values = torch.cat([*(pair[1] for pair in past), v], dim=2)
        dropout = self.dropout if self.training else 0.0
        out = attend(q + self.pos_bias_u[:, None], keys, values, bias, dropout)
        return self.linear_out(out), k, v


class FeedForward(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.output_size, config.linear_units)
        self.w_2 = nn.Linear(config.linear_units, config.output_size)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.w_2(self.dropout(F.silu(self.w_1(x))))


class ConformerLayer(nn.Module):
    """Pre-norm attention and feed-forward layer; this conformer has no convolution module."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelPositionAttention(config)
        self.feed_forward = FeedForward(config)
        self.norm_mha = nn.LayerNorm(config.output_size, eps=_BLOCK_EPS)
        self.norm_ff = nn.LayerNorm(config.output_size, eps=_BLOCK_EPS)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, x_BTD: Tensor, past: Sequence[tuple[Tensor, Tensor]], view: View, table_RD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments and results as in `RelPositionAttention.forward`."""
        out, k, v = self.self_attn(self.norm_mha(x_BTD), past, view, table_RD)
        x_BTD = x_BTD + self.dropout(out)
        return x_BTD + self.dropout(self.feed_forward(self.norm_ff(x_BTD))), k, v


class InputEmbedding(nn.Module):
    """Linear layer and norm; the result is scaled by the root of the width."""

    def __init__(self, width_in: int, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.out = nn.Sequential(
            nn.Linear(width_in, config.output_size), nn.LayerNorm(config.output_size)
        )
        self.scale = math.sqrt(config.output_size)
        self.dropout = nn.Dropout(config.positional_dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width_in] to [..., D]."""
        return self.dropout(self.out(x) * self.scale)


class PreLookahead(nn.Module):
    """A convolution that looks a few tokens to the right, then a causal one, and the residual."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        width = config.output_size
        self.conv1 = nn.Conv1d(width, width, config.pre_lookahead_len + 1)
        self.conv2 = nn.Conv1d(width, width, _LOOKAHEAD_KERNEL)

    def forward(self, x_BTD: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve T + lookahead tokens into T.

        Args:
            x_BTD: tokens of this call and the ones that it looks ahead to.
            tail: [B, D, 2], what came out of the first convolution just before.

        Returns:
            Output [B, T, D]; what came out of the first convolution behind `tail`, [B, D, 2 + T].
        """
        extended = torch.cat([tail, F.leaky_relu(self.conv1(x_BTD.mT), LOOKAHEAD_SLOPE)], dim=-1)
        out = self.conv2(extended).mT
        return out + x_BTD[:, : out.shape[1]], extended


class Upsample(nn.Module):
    """Every token repeated, then a causal convolution."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.factor = config.up_scale_factor
        self.conv = nn.Conv1d(config.output_size, config.output_size, 2 * config.up_stride + 1)

    def forward(self, x_BTD: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B, factor * T, D], and the input of the convolution with `tail` before it."""
        extended = torch.cat([tail, x_BTD.mT.repeat_interleave(self.factor, dim=-1)], dim=-1)
        return self.conv(extended).mT, extended


@dataclass(frozen=True)
class EncoderPast:
    """What the encoder remembers of earlier calls.

    Attributes:
        lookahead: [B, D, 2] tail of the lookahead layer.
        upsample: [B, D, 4] tail of the upsampling convolution.
        tokens: keys and values of the layers at the rate of tokens, one entry for each part of
            the context (such as prompt and left context), in the order of the views.
        frames: the same of the layers at the rate of frames.
    """

    lookahead: Tensor
    upsample: Tensor
    tokens: tuple[KeyValues, ...] = ()
    frames: tuple[KeyValues, ...] = ()


@dataclass(frozen=True)
class EncoderTrace:
    """What a call leaves to remember: extended convolution inputs, keys and values."""

    lookahead: Tensor
    upsample: Tensor
    tokens: KeyValues
    frames: KeyValues


class UpsampleConformer(nn.Module):
    """Embedded tokens to frames of the encoder's width; inference: `conformer_fused`."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = InputEmbedding(config.input_size, config)
        self.pre_lookahead_layer = PreLookahead(config)
        self.encoders = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_blocks))
        self.up_layer = Upsample(config)
        self.up_embed = InputEmbedding(config.output_size, config)
        self.up_encoders = nn.ModuleList(
            ConformerLayer(config) for _ in range(config.num_up_blocks)
        )
        self.after_norm = nn.LayerNorm(config.output_size)

    def empty_past(self, batch: int) -> EncoderPast:
        """Past of so many sequences that have just begun."""
        tail = self.after_norm.weight.new_zeros(batch, self.config.output_size, 1)
        return EncoderPast(
            tail.expand(-1, -1, _LOOKAHEAD_KERNEL - 1),
            tail.expand(-1, -1, 2 * self.config.up_stride),
        )

    def forward(
        self, x_BTD: Tensor, num_valid: Tensor, past: EncoderPast, views: tuple[View, View]
    ) -> tuple[Tensor, EncoderTrace]:
        """Encode the tokens of one call.

        Args:
            x_BTD: embedded tokens, T of this call and then the lookahead.
            num_valid: [B], how many of T + lookahead there are; the rest counts as zeros, as
                behind the end of a sequence.
            past: memory of earlier calls.
            views: of the layers at the rate of tokens and at the rate of frames.

        Returns:
            Frames [B, factor * T, D], and what the call leaves to remember.
        """
        inside = torch.arange(x_BTD.shape[1], device=x_BTD.device) < num_valid[:, None]
        x = self.embed(x_BTD) * inside[..., None]
        x, lookahead = self.pre_lookahead_layer(x, past.lookahead)
        x, tokens = self._layers(self.encoders, x, past.tokens, views[0])
        x, upsample = self.up_layer(x, past.upsample)
        x, frames = self._layers(self.up_encoders, self.up_embed(x), past.frames, views[1])
        return self.after_norm(x), EncoderTrace(lookahead, upsample, tokens, frames)

    def _layers(
        self, layers: nn.ModuleList, x_BTD: Tensor, past: Sequence[KeyValues], view: View
    ) -> tuple[Tensor, KeyValues]:
        table = distance_table(view.nearest, view.farthest, x_BTD.shape[-1], x_BTD)
        keys, values = [], []
        for index, layer in enumerate(layers):
            earlier = [(part.keys[index], part.values[index]) for part in past]
            x_BTD, k, v = layer(x_BTD, earlier, view, table)
            keys.append(k)
            values.append(v)
        return x_BTD, KeyValues(torch.stack(keys), torch.stack(values))
