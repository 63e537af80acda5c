"""Multi-token prediction: blocks on the decoder that propose tokens behind the next one.

Block h takes the hidden state of block h - 1 and the embedding of the token h places ahead, and
predicts the token behind that (StepAudio 2.5, arXiv 2605.23463, section 4; the block is that of
Step 3.5 Flash, arXiv 2602.10604)::

    u_h(t) = W_h [Norm_a(z_{h-1}(t)); Norm_b(e(t + h))]
    z_h(t) = DecoderLayer_h(u_h(t))        its logits predict x(t + 1 + h)

where z_0 is the decoder's last hidden state and e are the embeddings that the decoder received,
latents over audio included. Embedding table, final norm and head are the decoder's.

Shape legend: B rows, T tokens, D decoder width, H blocks.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.errors import ConfigError
from stepaudio.models.backbone import Backbone, DecoderLayer
from stepaudio.models.config import TextConfig
from stepaudio.models.layers import RMSNorm, rotary_tables
from stepaudio.models.masks import AttentionPlan, KeyValueStore

_INPUT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Shape of the blocks.

    Attributes:
        num_blocks: tokens proposed behind the next one, H.
        shared: all blocks have the same weights.
        num_draft_ids: size of the reduced vocabulary that is proposed from; None: the decoder's.
    """

    num_blocks: int = 5
    shared: bool = False
    num_draft_ids: int | None = None

    def __post_init__(self) -> None:
        if self.num_blocks < 1:
            raise ConfigError(f"num_blocks must be at least 1, got {self.num_blocks}")
        if self.num_draft_ids is not None and self.num_draft_ids < 1:
            raise ConfigError(f"num_draft_ids must be at least 1, got {self.num_draft_ids}")


class PredictionBlock(nn.Module):
    """Two norms, a projection from both inputs to the decoder's width, a decoder layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.hidden_norm = RMSNorm(width, config.rms_norm_eps)
        self.embed_norm = RMSNorm(width, config.rms_norm_eps)
        self.proj = nn.Linear(2 * width, width, bias=False)
        self.layer = DecoderLayer(config, layer_idx=0)

    def forward(
        self,
        hidden: Tensor,
        embeds: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: KeyValueStore | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] of this block.

        Args:
            hidden: [B, T, D] of the block before.
            embeds: [B, T, D] embeddings of the tokens h places ahead.
            rotary: tables as of `DecoderAttention`.
            mask: as in `AttentionPlan`.
            past: cache of this block.
        """
        joined = torch.cat([self.hidden_norm(hidden), self.embed_norm(embeds)], dim=-1)
        out: Tensor = self.layer(self.proj(joined), rotary, mask, past)
        return out


class MultiTokenPredictor(nn.Module):
    """The blocks of one decoder; `draft_ids` are the tokens of a reduced draft vocabulary."""

    draft_ids: Tensor | None

    def __init__(
        self, config: PredictorConfig, text: TextConfig, draft_ids: Tensor | None = None
    ) -> None:
        """Create blocks with fresh weights.

        Args:
            config: their shape.
            text: the decoder's configuration.
            draft_ids: the reduced vocabulary, `num_draft_ids` different ids; None: there is none.

        Raises:
            ConfigError: the reduced vocabulary does not fit.
        """
        super().__init__()
        self.config = config
        self.text_config = text
        count = 1 if config.shared else config.num_blocks
        self.blocks = nn.ModuleList(PredictionBlock(text) for _ in range(count))
        size = None if draft_ids is None else len(draft_ids)
        if size != config.num_draft_ids or (size or 0) > text.vocab_size:
            raise ConfigError(
                f"{size} draft ids do not fit num_draft_ids {config.num_draft_ids} and a "
                f"vocabulary of {text.vocab_size} tokens"
            )
        self.register_buffer("draft_ids", draft_ids)

    @classmethod
    @torch.no_grad()
    def from_decoder(
        cls, config: PredictorConfig, decoder: Backbone, draft_ids: Tensor | None = None
    ) -> MultiTokenPredictor:
        """Blocks whose layers are copies of the decoder's last one; projections are new.

        A projection starts as the sum of its two inputs with little noise, so that the copied
        layer meets at once what it knows: a hidden state, and a token.
        """
        predictor = cls(config, decoder.config, draft_ids)
        width = decoder.config.hidden_size
        last = decoder.layers[-1]
        assert isinstance(last, DecoderLayer)
        for block in predictor.unique_blocks():
            block.layer = copy.deepcopy(last)
            nn.init.normal_(block.proj.weight, std=_INPUT_STD)
            for half in block.proj.weight.split(width, dim=1):
                half.diagonal().add_(1.0)
        weight = decoder.embed_tokens.weight
        return predictor.to(weight.device, weight.dtype)

    def unique_blocks(self) -> Iterator[PredictionBlock]:
        """The blocks that have weights of their own."""
        for block in self.blocks:
            assert isinstance(block, PredictionBlock)
            yield block

    def block(self, index: int) -> PredictionBlock:
        """Block `index`, counted from 0."""
        block = self.blocks[0 if self.config.shared else index]
        assert isinstance(block, PredictionBlock)
        return block

    def forward(self, hidden: Tensor, embeds: Tensor, plan: AttentionPlan) -> list[Tensor]:
        """Hidden states [B, T, D] of every block, with the true tokens ahead (training).

        Args:
            hidden: [B, T, D] last hidden states of the decoder.
            embeds: [B, T, D] embeddings that the decoder received.
            plan: the decoder's plan of the same pass.
        """
        rotary = self.rotary(plan, hidden.dtype)
        mask = plan.masks[self.window]
        states = []
        for index in range(self.config.num_blocks):
            # Nothing is predicted from the last positions, which have no token ahead.
            ahead = F.pad(embeds[:, index + 1 :], (0, 0, 0, min(index + 1, embeds.shape[1])))
            hidden = self.block(index)(hidden, ahead, rotary, mask)
            states.append(hidden)
        return states

    def rotary(self, plan: AttentionPlan, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rotary tables [B or 1, 1, T, K] of a pass."""
        text = self.text_config
        cos, sin = rotary_tables(plan.positions, text.head_width, text.rope_theta)
        return cos[:, None].to(dtype), sin[:, None].to(dtype)

    @property
    def window(self) -> int | None:
        """Sliding window of the blocks: that of the decoder's last layer."""
        return self.text_config.layer_windows[-1]

    def cache_config(self, num_blocks: int) -> TextConfig:
        """Configuration of a slot cache with one layer for each of the first blocks."""
        return dataclasses.replace(
            self.text_config,
            num_hidden_layers=num_blocks,
            use_sliding_window=self.window is not None,
            sliding_window=self.window,
            max_window_layers=0,
            sliding_layers=None,
        )


class BlockCache:
    """One layer of a cache, for a block that takes itself for the first layer."""

    def __init__(self, cache: KeyValueStore, index: int) -> None:
        self._cache = cache
        self._index = index

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See `KeyValueStore`."""
        return self._cache.update(key_states, value_states, self._index, *args, **kwargs)
