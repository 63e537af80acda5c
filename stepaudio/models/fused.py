"""Inference copy of the decoder with few, large operations.

At small widths a step on CPU is bound by the number of operations. The copy joins projections,
folds norm weights and the attention scale into them and rotates queries and keys with one matrix
product. It reads and writes the same slot cache as `Backbone`, in the same layout. It is derived
from the public parameters and must be built anew when these change, for example after a LoRA merge.

Shape legend: B rows, T new tokens, H query heads, G key and value heads, K head width, D width,
L keys, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.backbone import Backbone, DecoderLayer
from stepaudio.models.kv_cache import SlotStep
from stepaudio.models.layers import apply_rotary, rotary_tables


@dataclass(frozen=True)
class _FusedLayer:
    """Weights of one layer, transposed to [in, out]; norms and attention scale are folded in."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def from_layer(cls, layer: DecoderLayer) -> _FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        scale = attention.head_width**-0.5
        scaled = ((attention.q_proj, scale), (attention.k_proj, 1.0), (attention.v_proj, 1.0))
        qkv = torch.cat([projection.weight * factor for projection, factor in scaled])
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        return cls(
            qkv=(qkv * layer.input_layernorm.weight).T.contiguous(),
            qkv_bias=torch.cat([projection.bias * factor for projection, factor in scaled]),
            out=attention.o_proj.weight.T.contiguous(),
            gate_up=(gate_up * layer.post_attention_layernorm.weight).T.contiguous(),
            down=mlp.down_proj.weight.T.contiguous(),
        )


class FusedDecoder:
    """Decoder layers and head, derived from a `Backbone`; see the module's text."""

    @torch.no_grad()
    def __init__(self, backbone: Backbone, head: Tensor) -> None:
        """Derive the copy.

        Args:
            backbone: decoder whose weights are copied.
            head: [V, D] weight of the output head, or those rows of it that are wanted.
        """
        self.config = backbone.config
        self._layers = [
            _FusedLayer.from_layer(layer)
            for layer in backbone.layers
            if isinstance(layer, DecoderLayer)
        ]
        self._head = (head * backbone.norm.weight).T.contiguous()
        # x @ swap is the second term's operand of rotary embedding: [-second half, first half].
        eye = torch.eye(self.config.head_width, device=head.device, dtype=head.dtype)
        half = self.config.head_width // 2
        self._eye = eye
        self._swap = torch.cat([-eye[half:], eye[:half]]).T.contiguous()

    def __call__(self, embeds: Tensor, step: SlotStep, last: Tensor | None = None) -> Tensor:
        """Logits [B, V] behind one token of every row.

        Args:
            embeds: [B, T, D] embeddings of the new tokens.
            step: cache pass over these tokens.
            last: [B] index of the token whose logits are wanted; None: the first.
        """
        batch, num_new = embeds.shape[:2]
        config = self.config
        tables = rotary_tables(step.plan.positions, config.head_width, config.rope_theta)
        cos, sin = (table.to(embeds.dtype) for table in tables)
        rotation = self._eye * cos + self._swap * sin if num_new == 1 else None
        x = embeds.flatten(0, 1)
        for index, (layer, window) in enumerate(
            zip(self._layers, config.layer_windows, strict=True)
        ):
            qkv = torch.addmm(layer.qkv_bias, self._normed(x), layer.qkv)
            heads = qkv.view(batch, num_new, -1, config.head_width)
            mask = step.plan.masks[window]
            if rotation is not None:
                attended = self._attend_one(heads[:, 0], rotation, mask, step, index)
            else:
                attended = self._attend_many(heads.transpose(1, 2), (cos, sin), mask, step, index)
            x = torch.addmm(x, attended, layer.out)
            gate, up = torch.mm(self._normed(x), layer.gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate).mul_(up), layer.down)
        if num_new > 1:
            rows = torch.arange(batch, device=x.device)
            x = x.view(batch, num_new, -1)[rows, 0 if last is None else last]
        return torch.mm(self._normed(x), self._head)

    def _normed(self, x: Tensor) -> Tensor:
        """RMS norm of [rows, D] without weight.

        The layer norm of [x, -x] has mean zero, so it is the RMS norm of x in one operation.
        """
        width = x.shape[1]
        both = torch.cat([x, -x], dim=1)
        return F.layer_norm(both, (2 * width,), eps=self.config.rms_norm_eps)[:, :width]

    def _attend_one(
        self, heads_BHK: Tensor, rotation: Tensor, mask: Tensor | None, step: SlotStep, index: int
    ) -> Tensor:
        """Attention output [B, H * K] of one new token per row."""
        num_heads, groups = self.config.num_attention_heads, self.config.num_key_value_heads
        turned = torch.bmm(heads_BHK[:, : num_heads + groups], rotation)
        new_values = heads_BHK[:, num_heads + groups :, None]
        k, v = step.update(turned[:, num_heads:, None], new_values, index)
        batch, _, length, width = k.shape
        q = turned[:, :num_heads].reshape(batch * groups, -1, width)
        scores = torch.bmm(q, k.reshape(-1, length, width).transpose(1, 2))
        if mask is not None:
            per_row = scores.view(batch, -1, length)
            scores = per_row.masked_fill(~mask[:, 0], float("-inf")).view_as(scores)
        out = torch.bmm(scores.softmax(-1), v.reshape(-1, length, width))
        return out.view(batch, num_heads * width)

    def _attend_many(
        self,
        heads_BHTK: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        step: SlotStep,
        index: int,
    ) -> Tensor:
        """Attention output [B * T, H * K] of several new tokens per row."""
        num_heads, groups = self.config.num_attention_heads, self.config.num_key_value_heads
        cos, sin = (table[:, None] for table in rotary)
        turned = apply_rotary(heads_BHTK[:, : num_heads + groups], cos, sin)
        k, v = step.update(turned[:, num_heads:], heads_BHTK[:, num_heads + groups :], index)
        out = F.scaled_dot_product_attention(
            turned[:, :num_heads], k, v, mask, is_causal=mask is None, scale=1.0, enable_gqa=True
        )
        return out.transpose(1, 2).flatten(0, 1).flatten(1)
