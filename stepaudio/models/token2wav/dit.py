"""Diffusion transformer of the flow: estimates the velocity (specification, section 10).

Blocks modulated by the time (arXiv 2212.09748), with a causal convolution block between attention
and feed-forward layer. Positions enter through the convolutions only.

Shape legend: B batch, T frames of this call, S keys, H heads, K head width, D width, C mel bands,
L blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.models.token2wav.context import KeyValues, attend
from stepaudio.models.token2wav.flow_config import FlowEstimatorConfig

CONV_TAIL = 2  # frames that a causal convolution of kernel 3 looks back
NORM_EPS = 1e-6
_TIME_SCALE = 1000.0


def _modulate(x_BTD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    size = x_BTD.shape[-1:]
    if len(scale_BD) == 1:  # one time for all rows: one operation instead of three
        return F.layer_norm(x_BTD, size, 1 + scale_BD[0], shift_BD[0], eps=NORM_EPS)
    normed = F.layer_norm(x_BTD, size, eps=NORM_EPS)
    return normed * (1 + scale_BD[:, None]) + shift_BD[:, None]


class TimeEmbedding(nn.Module):
    """Cosines and sines of the time, and two linear layers."""

    def __init__(self, config: FlowEstimatorConfig) -> None:
        super().__init__()
        self.frequency_size = config.frequency_size
        self.mlp = nn.Sequential(
            nn.Linear(config.frequency_size, config.hidden_size),
            nn.SiLU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )

    def forward(self, t_B: Tensor) -> Tensor:
        """Embed times between 0 and 1: [B] to [B, D]."""
        half = self.frequency_size // 2
        exponents = torch.arange(half, device=t_B.device).float() / half
        angles = t_B.float()[:, None] * _TIME_SCALE * torch.exp(-math.log(10_000.0) * exponents)
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(embedding.to(t_B.dtype))


class DiTAttention(nn.Module):
    """Multi-head attention with normalised queries and keys, and no positions."""

    def __init__(self, config: FlowEstimatorConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.to_q = nn.Linear(width, inner)
        self.to_k = nn.Linear(width, inner)
        self.to_v = nn.Linear(width, inner)
        self.q_norm = nn.LayerNorm(config.head_dim)
        self.k_norm = nn.LayerNorm(config.head_dim)
        self.proj = nn.Linear(inner, width)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self, x_BTD: Tensor, past: Sequence[tuple[Tensor, Tensor]], visible: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to earlier keys and to those of this call.

        Args:
            x_BTD: input.
            past: earlier keys and values, [B, H, *, K] each, in the order of `visible`.
            visible: [B or 1, 1, T, S], boolean or additive; None: everything.

        Returns:
            Output [B, T, D]; keys and values of this call, [B, H, T, K].
        """
        q = self.q_norm(self._heads(self.to_q(x_BTD)))
        k = self.k_norm(self._heads(self.to_k(x_BTD)))
        v = self._heads(self.to_v(x_BTD))
        keys = torch.cat([*(pair[0] for pair in past), k], dim=2)
        values = torch.cat([*(pair[1] for pair in past), v], dim=2)
        return self.proj(attend(q, keys, values, visible)), k, v


class CausalConvBlock(nn.Module):
    """Two causal convolutions of kernel 3 with a norm and Mish between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The public block transposes around the norm in unnumbered layers 0, 2 and 5.
        self.block = nn.ModuleDict(
            {
                "1": nn.Conv1d(width, width, CONV_TAIL + 1),
                "3": nn.LayerNorm(width),
                "6": nn.Conv1d(width, width, CONV_TAIL + 1),
            }
        )

    def forward(self, x_BTD: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve behind the tails of both convolutions, [B, 2, D, 2].

        Returns:
            Output [B, T, D]; the inputs of both with their tails before them, [B, 2, D, 2 + T].
        """
        first = torch.cat([tails[:, 0], x_BTD.mT], dim=-1)
        hidden = F.mish(self.block["3"](self.block["1"](first).mT)).mT
        second = torch.cat([tails[:, 1], hidden], dim=-1)
        return self.block["6"](second).mT, torch.stack([first, second], dim=1)


class FeedForward(nn.Module):
    """Two linear layers with the tanh form of GELU between."""

    def __init__(self, config: FlowEstimatorConfig) -> None:
        super().__init__()
        hidden = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, hidden)
        self.fc2 = nn.Linear(hidden, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """Attention, convolution block and feed-forward layer, each modulated by the time."""

    def __init__(self, config: FlowEstimatorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attn = DiTAttention(config)
        self.mlp = FeedForward(config)
        self.conv = CausalConvBlock(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 9 * width))

    def forward(
        self,
        x_BTD: Tensor,
        modulation_BE: Tensor,
        past: Sequence[tuple[Tensor, Tensor]],
        tails: Tensor,
        visible: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Apply the block; `modulation_BE` is what `adaLN_modulation` gives, E = 9 * D.

        Returns:
            Output [B, T, D]; keys, values and extended convolution inputs of this call.
        """
        modulation = modulation_BE.chunk(9, dim=-1)
        attn, mlp, conv = modulation[:3], modulation[3:6], modulation[6:]
        out, k, v = self.attn(_modulate(x_BTD, *attn[:2]), past, visible)
        x_BTD = torch.addcmul(x_BTD, attn[2][:, None], out)
        out, extended = self.conv(_modulate(x_BTD, *conv[:2]), tails)
        x_BTD = torch.addcmul(x_BTD, conv[2][:, None], out)
        out = self.mlp(_modulate(x_BTD, *mlp[:2]))
        return torch.addcmul(x_BTD, mlp[2][:, None], out), (k, v, extended)


class FinalLayer(nn.Module):
    """Modulated norm and the projection to mel bands."""

    def __init__(self, config: FlowEstimatorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, config.out_channels)

    def forward(self, x_BTD: Tensor, modulation_BE: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, C]; `modulation_BE` is what `adaLN_modulation` gives."""
        return self.linear(_modulate(x_BTD, *modulation_BE.chunk(2, dim=-1)))


@dataclass(frozen=True)
class Modulation:
    """What times do to the layers, one row for each time or one for the whole batch.

    Attributes:
        blocks: [B, 9 * D] of every block.
        final: [B, 2 * D].
    """

    blocks: tuple[Tensor, ...]
    final: Tensor

    def rows(self) -> list[Modulation]:
        """One for each time."""
        parts = [tensor.split(1) for tensor in (*self.blocks, self.final)]
        return [Modulation(tuple(row[:-1]), row[-1]) for row in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Condition:
    """What the velocity is conditioned on, all at the rate of frames.

    Attributes:
        mu: [B, C, T] from the encoder.
        speaker: [B, C].
        mel: [B, C, T], known mel (that of the prompt), zero where unknown.
    """

    mu: Tensor
    speaker: Tensor
    mel: Tensor


@dataclass(frozen=True)
class EstimatorPast:
    """What the estimator remembers of earlier calls at one time.

    Attributes:
        tails: [L, B, 2, D, 2] of the convolutions.
        parts: keys and values, one entry for each part of the context.
    """

    tails: Tensor
    parts: tuple[KeyValues, ...] = ()


@dataclass(frozen=True)
class EstimatorTrace:
    """What a call leaves to remember: extended convolution inputs [L, B, 2, D, 2 + T], keys and
    values."""

    conv: Tensor
    new: KeyValues


class DiT(nn.Module):
    """Velocity of the noisy mel at a time; `dit_fused` computes the same for inference."""

    def __init__(self, config: FlowEstimatorConfig) -> None:
        super().__init__()
        self.config = config
        self.t_embedder = TimeEmbedding(config)
        self.in_proj = nn.Linear(config.in_channels, config.hidden_size)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def empty_past(self, batch: int) -> EstimatorPast:
        """Past of so many sequences that have just begun."""
        config = self.config
        zero = self.in_proj.weight.new_zeros(())
        return EstimatorPast(zero.expand(config.depth, batch, 2, config.hidden_size, CONV_TAIL))

    def modulation(self, t_B: Tensor) -> Modulation:
        """What times between 0 and 1 do to the layers; the same for every call at these times."""
        time = self.t_embedder(t_B)
        layers = [
            layer.get_submodule("adaLN_modulation") for layer in (*self.blocks, self.final_layer)
        ]
        *blocks, final = (layer(time) for layer in layers)
        return Modulation(tuple(blocks), final)

    def forward(
        self,
        x_BCT: Tensor,
        condition: Condition,
        t_B: Tensor | Modulation,
        past: EstimatorPast,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, EstimatorTrace]:
        """Estimate the velocity.

        Args:
            x_BCT: noisy mel.
            condition: encoder output, speaker and known mel.
            t_B: time of each row, or one for all, between 0 and 1; or what `modulation` gave.
            past: memory of earlier calls at this time.
            visible: [B or 1, 1, T, S], boolean or `additive_mask` of it; None: every frame sees
                every frame.

        Returns:
            Velocity [B, C, T], and what the call leaves to remember.
        """
        speaker = condition.speaker[..., None].expand_as(x_BCT)
        x = torch.cat([x_BCT, condition.mu, speaker, condition.mel], dim=1).mT
        x = self.in_proj(x)
        modulation = t_B if isinstance(t_B, Modulation) else self.modulation(t_B)
        traces = []
        for index, block in enumerate(self.blocks):
            earlier = [(part.keys[index], part.values[index]) for part in past.parts]
            tails = past.tails[index]
            x, trace = block(x, modulation.blocks[index], earlier, tails, visible)
            traces.append(trace)
        keys, values, conv = (torch.stack(tensors) for tensors in zip(*traces, strict=True))
        velocity = self.final_layer(x, modulation.final).mT
        return velocity, EstimatorTrace(conv, KeyValues(keys, values))
