"""Decoder-only transformer over text tokens, audio tokens and audio latents.

Grouped-query attention, rotary positions, SwiGLU (specification, section 4), under the public
parameter names ``model.*``.

Shape legend: B batch, T new tokens, L keys, H heads, K head width, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stepaudio.models.config import TextConfig
from stepaudio.models.layers import RMSNorm, SwiGLU, apply_rotary, rotary_tables
from stepaudio.models.masks import AttentionPlan, KeyValueStore


class DecoderAttention(nn.Module):
    """Grouped-query attention; query, key and value projections have biases, output has none."""

    def __init__(self, config: TextConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_width = config.head_width
        self.is_grouped = config.num_key_value_heads != config.num_attention_heads
        q_width = config.num_attention_heads * config.head_width
        kv_width = config.num_key_value_heads * config.head_width
        self.q_proj = nn.Linear(config.hidden_size, q_width)
        self.k_proj = nn.Linear(config.hidden_size, kv_width)
        self.v_proj = nn.Linear(config.hidden_size, kv_width)
        self.o_proj = nn.Linear(q_width, config.hidden_size, bias=False)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: KeyValueStore | None,
    ) -> Tensor:
        """Attend; `rotary` are tables [B or 1, 1, T, K], `mask` is as in `AttentionPlan`."""
        q = apply_rotary(self._heads(self.q_proj(x_BTD)), *rotary)
        k = apply_rotary(self._heads(self.k_proj(x_BTD)), *rotary)
        v = self._heads(self.v_proj(x_BTD))
        if past is not None:
            k, v = past.update(k, v, self.layer_idx)
        causal = mask is None and q.shape[2] > 1
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.is_grouped
        )
        projected: Tensor = self.o_proj(out.transpose(1, 2).flatten(-2))
        return projected


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward layer."""

    def __init__(self, config: TextConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = DecoderAttention(config, layer_idx)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: KeyValueStore | None,
    ) -> Tensor:
        """Apply the layer to [B, T, D]."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotary, mask, past)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class Backbone(nn.Module):
    """Embedding table, decoder layers and final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def init_weights(self) -> None:
        """Draw fresh weights: normal with `initializer_range`, smaller where layers add up."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=std / (2 * len(self.layers)) ** 0.5)
            else:
                nn.init.normal_(parameter, std=std)

    def forward(
        self, embeds: Tensor, plan: AttentionPlan, past: KeyValueStore | None = None
    ) -> Tensor:
        """Run the decoder.

        Args:
            embeds: [B, T, D] embeddings of tokens and latents.
            plan: positions and masks, from `plan_attention` or a slot cache.
            past: cache that takes the new keys and values; it is changed.

        Returns:
            Hidden states behind the final norm, [B, T, D].
        """
        cos, sin = rotary_tables(plan.positions, self.config.head_width, self.config.rope_theta)
        rotary = (cos[:, None].to(embeds.dtype), sin[:, None].to(embeds.dtype))
        x = embeds
        for layer, window in zip(self.layers, self.config.layer_windows, strict=True):
            mask = plan.masks[window]
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, rotary, mask, past, use_reentrant=False)
            else:
                x = layer(x, rotary, mask, past)
        out: Tensor = self.norm(x)
        return out
