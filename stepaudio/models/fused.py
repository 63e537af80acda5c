"""Inference copy of the decoder with few, large operations.

At small widths a step on CPU is bound by the number of operations and by what calling each of them
costs. The copy joins projections, rotates queries and keys with one matrix product, and runs all
layers in one call: on a CPU they are compiled with TorchScript, which needs no compiler, and is the
same code. The weights are laid out by `stepaudio.models.packed`, or as int8 by
`stepaudio.models.int8`. It reads and writes the same slot cache as `Backbone`, in the same layout.
It is derived from the public parameters and must be built anew when these change, for example after
a LoRA merge.

Shape legend: B rows, T new tokens, R = B * T, H query heads, G key and value heads, K head width,
D width, L keys, V vocabulary.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.models.backbone import Backbone, DecoderLayer
from stepaudio.models.config import TextConfig
from stepaudio.models.int8 import Int8Linear, Int8NormedLinear, check_int8, is_worthwhile
from stepaudio.models.kv_cache import SlotStep, store
from stepaudio.models.layers import apply_rotary, rotary_tables
from stepaudio.models.masks import AttentionPlan, Window
from stepaudio.models.packed import FloatLinear, FusedNorm, NormedLinear, pack_linear
from stepaudio.models.passes import LayerPass, SlotRows, WindowPass, WindowRows

Precision = Literal["float", "int8"]

# Up to so many new tokens attention is cheaper as two plain products than as a tiled kernel.
_FEW_TOKENS = 16


def pack(weight: Tensor, bias: Tensor | None, precision: Precision) -> FloatLinear | Int8Linear:
    """Lay a linear layer out."""
    return Int8Linear(weight, bias) if precision == "int8" else pack_linear(weight, bias)


def pack_normed(
    norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None, precision: Precision
) -> NormedLinear | Int8NormedLinear:
    """Lay a linear layer behind an RMS norm out."""
    if precision == "int8":
        return Int8NormedLinear(norm_weight, eps, weight, bias)
    return NormedLinear(FusedNorm(norm_weight, eps), pack_linear(weight, bias))


class _FusedLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, layer: DecoderLayer, config: TextConfig, precision: Precision) -> None:
        super().__init__()
        attention, mlp, eps = layer.self_attn, layer.mlp, config.rms_norm_eps
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = pack_normed(
            layer.input_layernorm.weight,
            eps,
            torch.cat([projection.weight for projection in projections]),
            torch.cat([projection.bias for projection in projections]),
            precision,
        )
        self.out = pack(attention.o_proj.weight, None, precision)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        norm = layer.post_attention_layernorm
        self.gate_up = pack_normed(norm.weight, eps, gate_up, None, precision)
        self.down = pack(mlp.down_proj.weight, None, precision)
        self.num_heads = config.num_attention_heads
        self.groups = config.num_key_value_heads
        self.width = config.head_width
        self.scale = config.head_width**-0.5
        self.nothing = attention.o_proj.weight.detach().new_zeros(1)

    def forward(self, x: Tensor, buffer: Tensor, shared: LayerPass, window: WindowPass) -> Tensor:
        """Apply the layer to the tokens [R, D] of a pass."""
        heads = self.qkv(x).view(x.size(0), -1, self.width)
        rotation = shared.rotation
        # Several new tokens without a mask see each other causally, which a bias does not say.
        if rotation is not None and (shared.num_new == 1 or window.bias is not None):
            attended = self.attend_few(heads, rotation, buffer, shared, window)
        else:
            attended = self.attend_many(heads, buffer, shared, window)
        x = self.out.add_to(x, attended)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down.add_to(x, F.silu(gate).mul_(up))

    def attend_few(
        self,
        heads: Tensor,
        rotation: Tensor,
        buffer: Tensor,
        shared: LayerPass,
        window: WindowPass,
    ) -> Tensor:
        """Attention output [R, H * K] of few new tokens per row, from [R, H + 2 G, K]."""
        batch, num_new, groups, width = shared.batch, shared.num_new, self.groups, self.width
        num_turned = self.num_heads + groups
        turned = torch.bmm(heads[:, :num_turned], rotation)
        q = turned[:, : self.num_heads]
        new_keys = turned[:, self.num_heads :, None]
        new_values = heads[:, num_turned:, None]
        if num_new > 1:
            q = q.view(batch, num_new, groups, -1, width).permute(0, 2, 3, 1, 4)
            new_keys = new_keys.view(batch, num_new, groups, width).transpose(1, 2)
            new_values = new_values.view(batch, num_new, groups, width).transpose(1, 2)
        k, v = store(buffer, new_keys, new_values, shared.rows, window.place)
        length = k.size(2)
        k, v = k.reshape(-1, length, width), v.reshape(-1, length, width)
        q = q.reshape(batch * groups, -1, width)
        bias = window.bias
        if bias is None:
            scores = torch.baddbmm(self.nothing, q, k.transpose(1, 2), beta=0.0, alpha=self.scale)
        else:
            scores = torch.baddbmm(bias, q, k.transpose(1, 2), beta=1.0, alpha=self.scale)
        out = torch.bmm(scores.softmax(-1), v)
        if num_new > 1:
            out = out.view(batch, groups, -1, num_new, width).permute(0, 3, 1, 2, 4)
        return out.reshape(batch * num_new, self.num_heads * width)

    def attend_many(
        self, heads: Tensor, buffer: Tensor, shared: LayerPass, window: WindowPass
    ) -> Tensor:
        """The same for any number of new tokens."""
        num_turned = self.num_heads + self.groups
        heads_BHTK = heads.view(shared.batch, shared.num_new, -1, self.width).transpose(1, 2)
        cos, sin = shared.cos[:, None], shared.sin[:, None]
        turned = apply_rotary(heads_BHTK[:, :num_turned], cos, sin)
        new_keys, new_values = turned[:, self.num_heads :], heads_BHTK[:, num_turned:]
        k, v = store(buffer, new_keys, new_values, shared.rows, window.place)
        mask = window.mask
        out = F.scaled_dot_product_attention(
            turned[:, : self.num_heads], k, v, mask, is_causal=mask is None, enable_gqa=True
        )
        return out.transpose(1, 2).flatten(0, 1).flatten(1)


class _FusedStack(nn.Module):
    """Several layers in one call."""

    def __init__(self, layers: Iterable[nn.Module], windows: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.windows = windows

    def forward(self, x: Tensor, buffers: list[Tensor], shared: LayerPass) -> Tensor:
        """Apply all layers to the tokens [R, D] of a pass."""
        for index, layer in enumerate(self.layers):
            x = layer(x, buffers[index], shared, shared.windows[self.windows[index]])
        return x


def _compiled(module: nn.Module, device: torch.device) -> Any:
    """The module without Python between its operations, on a CPU; elsewhere the module itself.

    TorchScript does not support Python 3.14 and later, where steps are slower and otherwise equal.
    """
    module.eval()
    if device.type != "cpu" or sys.version_info >= (3, 14):
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


def _call(module: Any, *args: Any) -> Tensor:
    """Result of a module that may be compiled; it is not specialised to shapes, which vary."""
    if not isinstance(module, torch.jit.ScriptModule):
        out: Tensor = module(*args)
        return out
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        out = module(*args)
    return out


def packed(weight: Tensor, precision: Precision) -> Callable[[Tensor], Tensor]:
    """A linear layer [R, D] to [R, N] of weight [N, D], as a function."""
    return partial(_call, _compiled(pack(weight, None, precision), weight.device))


class FusedLayers:
    """Decoder layers over a slot cache."""

    def __init__(
        self,
        config: TextConfig,
        layers: Iterable[nn.Module],
        windows: tuple[Window, ...],
        precision: Precision = "float",
    ) -> None:
        """Derive the copies.

        Args:
            config: shapes of the layers.
            layers: `DecoderLayer`s in the order of the cache; the same one may occur again.
            windows: sliding window of each.
            precision: of the weights.
        """
        self._config = config
        kept = [layer for layer in layers if isinstance(layer, DecoderLayer)]
        made = {layer: _FusedLayer(layer, config, precision) for layer in kept}
        self._windows = list(dict.fromkeys(windows))
        self._window_of = [self._windows.index(window) for window in windows]
        # x @ swap is the second term's operand of rotary embedding: [-second half, first half].
        weight = kept[0].self_attn.o_proj.weight
        eye = torch.eye(config.head_width, device=weight.device, dtype=weight.dtype)
        half = config.head_width // 2
        self._eye = eye
        self._swap = torch.cat([-eye[half:], eye[:half]]).T.contiguous()
        self._layers = [made[layer] for layer in kept]
        self._stack: Any = None
        self._singles: list[Any] = []

    def __call__(self, embeds: Tensor, step: SlotStep) -> Tensor:
        """Run all layers over [B, T, D]; returns [R, D]."""
        x = self.run(embeds, step.buffers, self.begin(step, *embeds.shape[:2]))
        step.advance()
        return x

    def run(self, embeds: Tensor, buffers: list[Tensor], shared: LayerPass) -> Tensor:
        """Run all layers in a pass that was prepared; `buffers` are those of a cache."""
        if self._stack is None:
            self._stack = _compiled(_FusedStack(self._layers, self._window_of), embeds.device)
        return _call(self._stack, embeds.flatten(0, 1), buffers, shared)

    def begin(self, step: SlotStep, batch: int, num_new: int) -> LayerPass:
        """Prepare what the layers share in a pass over [B, T] new tokens."""
        return self.prepare(step.plan, step.rows, step.places, batch, num_new)

    def prepare(
        self,
        plan: AttentionPlan,
        rows: SlotRows,
        places: Mapping[Window, WindowRows],
        batch: int,
        num_new: int,
    ) -> LayerPass:
        """The same of a pass that no `SlotStep` describes."""
        config = self._config
        tables = rotary_tables(plan.positions, config.head_width, config.rope_theta)
        cos, sin = (table.to(self._eye.dtype) for table in tables)
        rotation = None
        if num_new <= _FEW_TOKENS:
            rotation = self._eye * cos[..., None, :] + self._swap * sin[..., None, :]
            rotation = rotation.flatten(0, 1)
        windows = []
        for window in self._windows:
            mask = plan.masks[window]
            bias = self._bias(mask) if rotation is not None else None
            windows.append(WindowPass(places[window], mask, bias))
        return LayerPass(batch, num_new, rows, cos, sin, rotation, windows)

    def apply(self, index: int, x: Tensor, shared: LayerPass, step: SlotStep) -> Tensor:
        """Run one layer over the tokens [R, D] of a pass; all must run, in their order."""
        if not self._singles:
            made = {layer: _compiled(layer, x.device) for layer in self._layers}
            self._singles = [made[layer] for layer in self._layers]
        window = shared.windows[self._window_of[index]]
        x = _call(self._singles[index], x, step.buffers[index], shared, window)
        if index == len(step.buffers) - 1:
            step.advance()
        return x

    def _bias(self, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores [B * G, H / G * T, L] of few tokens."""
        if mask is None:
            return None
        groups = self._config.num_key_value_heads
        repeats = self._config.num_attention_heads // groups
        bias = torch.zeros(mask.shape, dtype=self._eye.dtype, device=mask.device)
        bias = bias.masked_fill_(~mask, float("-inf"))[:, None]
        return bias.expand(-1, groups, repeats, -1, -1).flatten(2, 3).flatten(0, 1)


class FusedDecoder:
    """Decoder layers and head, derived from a `Backbone`; see the module's text.

    Attributes:
        config: the decoder's configuration.
        precision: of its weights; a small decoder keeps float ones.
        normed: the final norm.
    """

    @torch.no_grad()
    def __init__(self, backbone: Backbone, head: Tensor, precision: Precision = "float") -> None:
        """Derive the copy.

        Args:
            backbone: decoder whose weights are copied.
            head: [V, D] weight of the output head, or those rows of it that are wanted.
            precision: "float": as the weights are; "int8": see `stepaudio.models.int8`.

        Raises:
            ConfigError: there are no int8 weights for this device or type.
        """
        if precision == "int8":
            check_int8(head.device, head.dtype)
            precision = "int8" if is_worthwhile(backbone) else "float"
        self.config = backbone.config
        self.precision = precision
        windows = self.config.layer_windows
        self._layers = FusedLayers(self.config, backbone.layers, windows, precision)
        self.normed = FusedNorm(backbone.norm.weight, self.config.rms_norm_eps)
        self._head = packed(head, precision)

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

    def step_in_place(
        self,
        embeds: Tensor,
        buffers: list[Tensor],
        plan: AttentionPlan,
        rows: SlotRows,
        places: Mapping[Window, WindowRows],
    ) -> Tensor:
        """Logits [B, V] behind one token of every row, in a pass that is described on the device.

        Args:
            embeds: [B, 1, D] embeddings of the new tokens.
            buffers: those of a cache; they are changed.
            plan: positions and masks.
            rows: slots of the rows.
            places: for every window where the pass writes and reads.
        """
        shared = self._layers.prepare(plan, rows, places, len(embeds), 1)
        return self._head(self.normed(self._layers.run(embeds, buffers, shared)))

    def hidden(self, embeds: Tensor, step: SlotStep) -> Tensor:
        """Hidden states [B, T, D] behind the final norm; arguments as in a call."""
        hidden: Tensor = self.normed(self._layers(embeds, step))
        return hidden.view_as(embeds)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return self._head(hidden.flatten(0, -2)).unflatten(0, hidden.shape[:-1])
