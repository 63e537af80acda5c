"""Prediction blocks at work: the modules themselves, or a fused copy of them on a CPU.

Both continue the hidden states of a decoder block by block over a slot cache of their own, whose
layers are the blocks.

Shape legend: B rows, T tokens, D decoder width, V tokens that can be proposed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from stepaudio.models.fused import FusedDecoder, FusedLayers, packed
from stepaudio.models.kv_cache import SlotStep
from stepaudio.models.mtp import BlockCache, MultiTokenPredictor
from stepaudio.models.packed import FusedNorm
from stepaudio.models.step_audio import StepAudio2ForCausalLM


class Drafter(Protocol):
    """What drafting asks of the blocks."""

    def inputs(self, embeds: Tensor) -> Tensor:
        """What the blocks take of embeddings [B, T, D]."""

    def token_inputs(self, ids: Tensor) -> Tensor:
        """The same of token ids [...]; [..., D]."""

    def begin(self, step: SlotStep, batch: int, num_new: int) -> BlockPass:
        """Begin a pass over [B, T] new tokens."""

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [B, V] of hidden states [B, D] of a block."""


class BlockPass(Protocol):
    """One pass of all blocks over the same new tokens."""

    def __call__(self, index: int, hidden: Tensor, inputs: Tensor) -> Tensor:
        """Hidden states [B, T, D] of block `index` from those before it and its inputs."""


class ModuleDrafter:
    """The blocks themselves as a `Drafter`: no copy of the weights."""

    def __init__(
        self, predictor: MultiTokenPredictor, model: StepAudio2ForCausalLM, rows: int | None
    ) -> None:
        """Prepare the blocks.

        Args:
            predictor: the blocks.
            model: the model that they belong to.
            rows: first rows of the head that are used; None: all.
        """
        self._predictor = predictor
        self._model = model
        self._rows = rows

    def inputs(self, embeds: Tensor) -> Tensor:
        """See `Drafter`."""
        return embeds

    def token_inputs(self, ids: Tensor) -> Tensor:
        """See `Drafter`."""
        embeds: Tensor = self._model.model.embed_tokens(ids)
        return embeds

    def begin(self, step: SlotStep, batch: int, num_new: int) -> BlockPass:
        """See `Drafter`."""
        predictor = self._predictor
        rotary = predictor.rotary(step.plan, self._model.lm_head.weight.dtype)
        mask = step.plan.masks[predictor.window]

        def run(index: int, hidden: Tensor, inputs: Tensor) -> Tensor:
            block = predictor.block(index)
            out: Tensor = block(hidden, inputs, rotary, mask, BlockCache(step, index))
            return out

        return run

    def project(self, hidden: Tensor) -> Tensor:
        """See `Drafter`."""
        normed = self._model.model.norm(hidden)
        ids = self._predictor.draft_ids
        if ids is None:
            return self._model.project(normed, self._rows)
        return torch.mm(normed, self._model.lm_head.weight[ids].T)


class FusedDrafter:
    """Inference copy of the blocks with few, large operations, as `FusedDecoder` is one."""

    @torch.no_grad()
    def __init__(
        self,
        predictor: MultiTokenPredictor,
        model: StepAudio2ForCausalLM,
        decoder: FusedDecoder,
        rows: int | None,
    ) -> None:
        """Derive the copy.

        Args:
            predictor: the blocks.
            model: the model that they belong to.
            decoder: its fused decoder, whose final norm and head the blocks share.
            rows: first rows of the embedding table that are looked up; None: all.
        """
        self._decoder = decoder
        eps = decoder.config.rms_norm_eps
        num_blocks = predictor.config.num_blocks
        blocks = [predictor.block(index) for index in range(num_blocks)]
        windows = (predictor.window,) * num_blocks
        precision = decoder.precision
        layers = [block.layer for block in blocks]
        self._layers = FusedLayers(decoder.config, layers, windows, precision)
        made = {block: packed(block.proj.weight, precision) for block in blocks}
        self._projections = [made[block] for block in blocks]
        self._hidden_norms = [FusedNorm(block.hidden_norm.weight, eps) for block in blocks]
        self._embed_weights = [block.embed_norm.weight.detach() for block in blocks]
        # Proposed tokens are few and looked up often, so that the whole table is normed once.
        table = model.model.embed_tokens.weight[:rows].detach()
        self._norm = FusedNorm(torch.ones_like(table[0]), eps)
        self._table: Tensor = self._norm(table).contiguous()
        ids = predictor.draft_ids
        self._head = None if ids is None else packed(model.lm_head.weight[ids], precision)

    def inputs(self, embeds: Tensor) -> Tensor:
        """See `Drafter`."""
        return self._norm(embeds.flatten(0, -2)).view_as(embeds)

    def token_inputs(self, ids: Tensor) -> Tensor:
        """See `Drafter`."""
        return self._table[ids]

    def begin(self, step: SlotStep, batch: int, num_new: int) -> BlockPass:
        """See `Drafter`."""
        shared = self._layers.begin(step, batch, num_new)

        def run(index: int, hidden: Tensor, inputs: Tensor) -> Tensor:
            normed = self._hidden_norms[index](hidden.flatten(0, 1))
            ahead = inputs.flatten(0, 1) * self._embed_weights[index]
            joined = torch.cat([normed, ahead], dim=1)
            out = self._layers.apply(index, self._projections[index](joined), shared, step)
            return out.view_as(hidden)

        return run

    def project(self, hidden: Tensor) -> Tensor:
        """See `Drafter`."""
        normed = self._decoder.normed(hidden)
        return self._decoder.project(normed) if self._head is None else self._head(normed)
