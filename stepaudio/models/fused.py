"""Inference copy of the decoder with few, large operations.

At small widths a step on CPU is bound by the number of operations. The copy joins projections and
rotates queries and keys with one matrix product. The weights themselves stay as they are, so that
`PackedLinear` may hold them in half precision. It reads and writes the same slot cache as
`Backbone`, in the same layout. It is derived from the public parameters and must be built anew when
these change, for example after a LoRA merge.

Shape legend: B rows, T new tokens, H query heads, G key and value heads, K head width, D width,
L keys, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.models.backbone import Backbone, DecoderLayer
from stepaudio.models.config import TextConfig
from stepaudio.models.kv_cache import SlotStep
from stepaudio.models.layers import apply_rotary, rotary_tables
from stepaudio.models.masks import Window
from stepaudio.models.packed import PackedLinear

# Up to so many new tokens attention is cheaper as two plain products than as a tiled kernel.
_FEW_TOKENS = 16


class FusedNorm:
    """RMS norm of [rows, D] in few operations."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = torch.cat([weight, weight]).detach()
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise.

        The layer norm of [x, -x] has mean zero, so it is the RMS norm of x in one operation.
        """
        width = x.shape[1]
        both = torch.cat([x, -x], dim=1)
        return F.layer_norm(both, (2 * width,), self._weight, eps=self._eps)[:, :width]


@dataclass(frozen=True)
class _FusedLayer:
    """Weights of one layer."""

    input_norm: FusedNorm
    qkv: PackedLinear
    out: PackedLinear
    middle_norm: FusedNorm
    gate_up: PackedLinear
    down: PackedLinear

    @classmethod
    def from_layer(cls, layer: DecoderLayer, eps: float) -> _FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return cls(
            input_norm=FusedNorm(layer.input_layernorm.weight, eps),
            qkv=PackedLinear(
                torch.cat([projection.weight for projection in projections]),
                torch.cat([projection.bias for projection in projections]),
            ),
            out=PackedLinear(attention.o_proj.weight),
            middle_norm=FusedNorm(layer.post_attention_layernorm.weight, eps),
            gate_up=PackedLinear(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])),
            down=PackedLinear(mlp.down_proj.weight),
        )


@dataclass(frozen=True)
class LayerPass:
    """What all layers of one pass share.

    Attributes:
        step: cache pass over the new tokens.
        batch: rows, B.
        num_new: new tokens of a row, T.
        tables: cosine and sine [B, T, K].
        rotation: [B * T, K, K] matrices that rotate a head's row; None for many tokens.
        biases: for every window [B * G, H / G * T, L], minus infinity where a key is invisible;
            for few tokens only.
    """

    step: SlotStep
    batch: int
    num_new: int
    tables: tuple[Tensor, Tensor]
    rotation: Tensor | None
    biases: Mapping[Window, Tensor | None]


class FusedLayers:
    """Decoder layers over a slot cache, one by one."""

    def __init__(
        self, config: TextConfig, layers: Iterable[nn.Module], windows: tuple[Window, ...]
    ) -> None:
        """Derive the copies.

        Args:
            config: shapes of the layers.
            layers: `DecoderLayer`s in the order of the cache; the same one may occur again.
            windows: sliding window of each.
        """
        self._config = config
        kept = [layer for layer in layers if isinstance(layer, DecoderLayer)]
        made = {layer: _FusedLayer.from_layer(layer, config.rms_norm_eps) for layer in kept}
        self._layers = [made[layer] for layer in kept]
        self._windows = windows
        # x @ swap is the second term's operand of rotary embedding: [-second half, first half].
        weight = kept[0].self_attn.o_proj.weight
        eye = torch.eye(config.head_width, device=weight.device, dtype=weight.dtype)
        half = config.head_width // 2
        self._eye = eye
        self._nothing = eye.new_zeros(1)
        self._scale = config.head_width**-0.5
        self._swap = torch.cat([-eye[half:], eye[:half]]).T.contiguous()

    def __call__(self, embeds: Tensor, step: SlotStep) -> Tensor:
        """Run all layers over [B, T, D]; returns [B * T, D]."""
        shared = self.begin(step, *embeds.shape[:2])
        x = embeds.flatten(0, 1)
        for index in range(len(self._layers)):
            x = self.apply(index, x, shared)
        return x

    def begin(self, step: SlotStep, batch: int, num_new: int) -> LayerPass:
        """Prepare what the layers share in a pass over [B, T] new tokens."""
        config = self._config
        tables = rotary_tables(step.plan.positions, config.head_width, config.rope_theta)
        cos, sin = (table.to(self._eye.dtype) for table in tables)
        rotation = None
        biases: dict[Window, Tensor | None] = {}
        if num_new <= _FEW_TOKENS:
            rotation = self._eye * cos[..., None, :] + self._swap * sin[..., None, :]
            rotation = rotation.flatten(0, 1)
            biases = {window: self._bias(mask) for window, mask in step.plan.masks.items()}
        return LayerPass(step, batch, num_new, (cos, sin), rotation, biases)

    def apply(self, index: int, x: Tensor, shared: LayerPass) -> Tensor:
        """Run one layer over the tokens [B * T, D] of a pass."""
        layer, config = self._layers[index], self._config
        qkv = layer.qkv(layer.input_norm(x))
        heads = qkv.view(len(x), -1, config.head_width)
        window = self._windows[index]
        # Several new tokens without a mask see each other causally, which a bias does not say.
        if shared.rotation is not None and (
            shared.num_new == 1 or shared.biases[window] is not None
        ):
            attended = self._attend_few(heads, shared, index)
        else:
            attended = self._attend_many(heads, shared, index)
        x = layer.out.add_to(x, attended)
        gate, up = layer.gate_up(layer.middle_norm(x)).chunk(2, dim=-1)
        return layer.down.add_to(x, F.silu(gate).mul_(up))

    def _bias(self, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores [B * G, H / G * T, L] of few tokens."""
        if mask is None:
            return None
        groups = self._config.num_key_value_heads
        repeats = self._config.num_attention_heads // groups
        bias = torch.zeros(mask.shape, dtype=self._eye.dtype, device=mask.device)
        bias = bias.masked_fill_(~mask, float("-inf"))[:, None]
        return bias.expand(-1, groups, repeats, -1, -1).flatten(2, 3).flatten(0, 1)

    def _attend_few(self, heads: Tensor, shared: LayerPass, index: int) -> Tensor:
        """Attention output [B * T, H * K] of few new tokens per row, from [B * T, H + 2 G, K]."""
        assert shared.rotation is not None
        num_heads, groups = self._config.num_attention_heads, self._config.num_key_value_heads
        batch, num_new = shared.batch, shared.num_new
        turned = torch.bmm(heads[:, : num_heads + groups], shared.rotation)
        width = turned.shape[-1]
        q, new_keys, values = (
            turned[:, :num_heads],
            turned[:, num_heads:, None],
            heads[:, num_heads + groups :, None],
        )
        if num_new > 1:
            q = q.view(batch, num_new, groups, -1, width).permute(0, 2, 3, 1, 4)
            new_keys = new_keys.view(batch, num_new, groups, width).transpose(1, 2)
            values = values.view(batch, num_new, groups, width).transpose(1, 2)
        k, v = shared.step.update(new_keys, values, index)
        length = k.shape[2]
        k, v = k.reshape(-1, length, width), v.reshape(-1, length, width)
        q = q.reshape(batch * groups, -1, width)
        bias = shared.biases[self._windows[index]]
        scores = torch.baddbmm(
            self._nothing if bias is None else bias,
            q,
            k.transpose(1, 2),
            beta=0 if bias is None else 1,
            alpha=self._scale,
        )
        out = torch.bmm(scores.softmax(-1), v)
        if num_new > 1:
            out = out.view(batch, groups, -1, num_new, width).permute(0, 3, 1, 2, 4)
        return out.reshape(batch * num_new, num_heads * width)

    def _attend_many(self, heads: Tensor, shared: LayerPass, index: int) -> Tensor:
        """The same for any number of new tokens."""
        num_heads, groups = self._config.num_attention_heads, self._config.num_key_value_heads
        heads_BHTK = heads.view(shared.batch, shared.num_new, -1, heads.shape[-1]).transpose(1, 2)
        cos, sin = (table[:, None] for table in shared.tables)
        turned = apply_rotary(heads_BHTK[:, : num_heads + groups], cos, sin)
        new_values = heads_BHTK[:, num_heads + groups :]
        k, v = shared.step.update(turned[:, num_heads:], new_values, index)
        mask = shared.step.plan.masks[self._windows[index]]
        out = F.scaled_dot_product_attention(
            turned[:, :num_heads], k, v, mask, is_causal=mask is None, enable_gqa=True
        )
        return out.transpose(1, 2).flatten(0, 1).flatten(1)


class FusedDecoder:
    """Decoder layers and head, derived from a `Backbone`; see the module's text.

    Attributes:
        config: the decoder's configuration.
        normed: the final norm.
    """

    @torch.no_grad()
    def __init__(self, backbone: Backbone, head: Tensor) -> None:
        """Derive the copy.

        Args:
            backbone: decoder whose weights are copied.
            head: [V, D] weight of the output head, or those rows of it that are wanted.
        """
        self.config = backbone.config
        self._layers = FusedLayers(self.config, backbone.layers, self.config.layer_windows)
        self.normed = FusedNorm(backbone.norm.weight, self.config.rms_norm_eps)
        self._head = PackedLinear(head)

    def __call__(self, embeds: Tensor, step: SlotStep, last: Tensor | None = None) -> Tensor:
        """Logits [B, V] behind one token of every row.

        Args:
            embeds: [B, T, D] embeddings of the new tokens.
            step: cache pass over these tokens.
            last: [B] index of the token whose logits are wanted; None: the first.
        """
        batch, num_new = embeds.shape[:2]
        x = self._layers(embeds, step)
        if num_new > 1:
            rows = torch.arange(batch, device=x.device)
            x = x.view(batch, num_new, -1)[rows, 0 if last is None else last]
        return self._head(self.normed(x))

    def hidden(self, embeds: Tensor, step: SlotStep) -> Tensor:
        """Hidden states [B, T, D] behind the final norm; arguments as in a call."""
        return self.normed(self._layers(embeds, step)).view_as(embeds)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return self._head(hidden.flatten(0, -2)).unflatten(0, hidden.shape[:-1])
