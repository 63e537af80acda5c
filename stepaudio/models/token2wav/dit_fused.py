"""The estimator at the times of a sampler, for inference with few operations.

What the time of a step does to the layers is computed once, and the share of the condition in the
input once for all steps; see `fused_layers` for the rest.

Shape legend: N sessions, R rows (N, or 2 N with guidance, all first rows before all second ones),
T frames of this call, S frames of a part of the context, C mel bands, D width, H heads, K head
width, L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.dit import CONV_TAIL, NORM_EPS, DiT, DiTBlock
from stepaudio.models.token2wav.fused_layers import FusedConv, FusedLinear, attend_joined


@dataclass(frozen=True)
class FusedPast:
    """What the estimator remembers of earlier calls at one time.

    Attributes:
        tails: [2 * L, R, 2, D], inputs of the convolutions before this call.
        parts: keys and values, [L, R, S, 2 * H, K], one entry for each part of the context.
    """

    tails: Tensor
    parts: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class FusedTrace:
    """What a call leaves to remember.

    Attributes:
        conv: inputs of the 2 * L convolutions with their tails before them, [R, 2 + T, D] each.
        new: keys and values of the L blocks, [R, T, 2 * H, K] each.
    """

    conv: list[Tensor]
    new: list[Tensor]


@dataclass(frozen=True)
class _Modulated:
    """What a time does to a part of a block, [D] each: weight and bias of its norm, its gate."""

    weight: Tensor
    bias: Tensor
    gate: Tensor

    def norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, NORM_EPS)


def _modulated(row: Tensor) -> list[_Modulated]:
    """Shift, scale and gate of the three parts, from [9 * D]."""
    parts = row.view(3, 3, -1)
    return [_Modulated(1 + scale, shift, gate) for shift, scale, gate in parts]


class _FusedBlock:
    """One block; its parts are modulated in the order attention, MLP, convolution."""

    def __init__(self, block: DiTBlock) -> None:
        attn, conv, mlp = block.attn, block.conv.block, block.mlp
        self._heads = attn.num_heads
        self._qkv = FusedLinear(attn.to_q, attn.to_k, attn.to_v)
        norms, self._eps = (attn.q_norm, attn.k_norm), attn.q_norm.eps
        self._norm_weight, self._norm_bias = (
            torch.stack(both).repeat_interleave(self._heads, dim=0)
            for both in (tuple(n.weight for n in norms), tuple(n.bias for n in norms))
        )
        self._first, self._second = FusedConv(conv["1"]), FusedConv(conv["6"])
        self._norm = conv["3"]
        self._proj, self._fc1, self._fc2 = (FusedLinear(f) for f in (attn.proj, mlp.fc1, mlp.fc2))

    def __call__(
        self,
        x_RTD: Tensor,
        parts: Sequence[_Modulated],
        past: Sequence[Tensor],
        tails: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Output [R, T, D]; inputs of both convolutions behind their tails; keys and values."""
        attn, mlp, conv = parts
        heads = self._heads
        qkv = self._qkv(attn.norm(x_RTD)).unflatten(-1, (3 * heads, -1))
        turned, new = qkv[:, :, : 2 * heads], qkv[:, :, heads:]
        normed = F.layer_norm(turned, turned.shape[-1:], eps=self._eps)
        torch.addcmul(self._norm_bias, normed, self._norm_weight, out=turned)
        context = torch.cat([*past, new], dim=1) if past else new
        out = attend_joined(qkv[:, :, :heads], context, mask)
        x_RTD = torch.addcmul(x_RTD, attn.gate, self._proj(out))
        first = torch.cat([tails[0], conv.norm(x_RTD)], dim=1)
        hidden = F.mish(self._norm(self._first(first)))
        second = torch.cat([tails[1], hidden], dim=1)
        x_RTD = torch.addcmul(x_RTD, conv.gate, self._second(second))
        out = self._fc2(F.gelu(self._fc1(mlp.norm(x_RTD)), approximate="tanh"))
        return torch.addcmul(x_RTD, mlp.gate, out), [first, second], new


class FusedEstimator:
    """Velocity at the times of a sampler, derived from a `DiT`; see the module's text."""

    @torch.no_grad()
    def __init__(self, dit: DiT, times: Sequence[float], cfg_rate: float) -> None:
        """Derive the copy.

        Args:
            dit: whose weights are copied or used.
            times: of the steps, between 0 and 1.
            cfg_rate: weight of guidance; 0: no second row for a session.
        """
        self._config, self._cfg_rate = dit.config, cfg_rate
        weight = dit.in_proj.weight
        self._blocks = [_FusedBlock(block) for block in dit.blocks if isinstance(block, DiTBlock)]
        modulation = dit.modulation(torch.tensor(times, device=weight.device, dtype=weight.dtype))
        rows = zip(*modulation.blocks, strict=True)  # one for each time
        self._modulated = [[_modulated(block) for block in row] for row in rows]
        shifts, scales = modulation.final.chunk(2, dim=-1)
        self._final = list(zip(1 + scales, shifts, strict=True))
        self._last = FusedLinear(dit.final_layer.linear)
        self._in_noisy, self._in_mu, self._in_speaker, self._in_mel = weight.chunk(4, dim=1)
        self._in_bias = dit.in_proj.bias

    @property
    def rows_per_session(self) -> int:
        """Two with guidance, else one."""
        return 2 if self._cfg_rate else 1

    def empty_past(self) -> FusedPast:
        """Past of one session that has just begun."""
        config = self._config
        shape = 2 * config.depth, self.rows_per_session, CONV_TAIL, config.hidden_size
        return FusedPast(self._in_noisy.new_zeros(()).expand(shape))

    def given(self, mu_NTC: Tensor, speaker_NC: Tensor, mel_NTC: Tensor | None) -> Tensor:
        """Share of the condition in the input of all steps.

        Args:
            mu_NTC: from the encoder.
            speaker_NC: condition of the speaker.
            mel_NTC: known mel; None: it is unknown.

        Returns:
            [1, N, T, D], or with guidance [2, N, T, D], without condition in the second half.
        """
        speaker = F.linear(speaker_NC, self._in_speaker, self._in_bias)[:, None]
        given = F.linear(mu_NTC, self._in_mu) + speaker
        if mel_NTC is not None:
            given = given + F.linear(mel_NTC, self._in_mel)
        if not self._cfg_rate:
            return given[None]
        return torch.stack([given, self._in_bias.expand_as(given)])

    def __call__(
        self, x_NTC: Tensor, given: Tensor, step: int, past: FusedPast, mask: Tensor | None
    ) -> tuple[Tensor, FusedTrace]:
        """Guided velocity at the time of a step; see `flow.VelocityField`.

        Args:
            x_NTC: noisy mel.
            given: from the method of this name.
            step: which of the times.
            past: memory of earlier calls at this time.
            mask: additive, [R or 1, 1, T, S + T]; None: every frame sees every frame.

        Returns:
            Velocity [N, T, C], and what the call leaves to remember.
        """
        x = (given + F.linear(x_NTC, self._in_noisy)).flatten(0, 1)
        conv, new = [], []
        blocks = zip(self._blocks, self._modulated[step], strict=True)
        for index, (block, parts) in enumerate(blocks):
            earlier = [part[index] for part in past.parts]
            tails = past.tails[2 * index : 2 * index + 2]
            x, inputs, made = block(x, parts, earlier, tails, mask)
            conv += inputs
            new.append(made)
        velocity = self._last(F.layer_norm(x, x.shape[-1:], *self._final[step], NORM_EPS))
        if self._cfg_rate:
            conditional, unconditional = velocity.chunk(2)
            velocity = (1 + self._cfg_rate) * conditional - self._cfg_rate * unconditional
        return velocity, FusedTrace(conv, new)
