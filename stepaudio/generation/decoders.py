"""Decoder layers and head as generation sees them.

Shape legend: B rows, T new tokens, D decoder width, V rows of the head.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from stepaudio.models.kv_cache import SlotStep
from stepaudio.models.step_audio import StepAudio2ForCausalLM


class Decoder(Protocol):
    """Decoder layers and head, as the modules themselves or as a fused copy of them."""

    def __call__(self, embeds: Tensor, step: SlotStep, last: Tensor | None = None) -> Tensor:
        """Logits [B, V] behind token `last` [B] (None: the first) of embeddings [B, T, D]."""

    def hidden(self, embeds: Tensor, step: SlotStep) -> Tensor:
        """Hidden states [B, T, D] behind the final norm."""

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""


class ModuleDecoder:
    """The model's own modules as a `Decoder`: no copy of the weights."""

    def __init__(self, model: StepAudio2ForCausalLM, rows: int | None) -> None:
        self._model = model
        self._rows = rows

    def __call__(self, embeds: Tensor, step: SlotStep, last: Tensor | None = None) -> Tensor:
        """See `Decoder`."""
        hidden = self.hidden(embeds, step)
        rows = torch.arange(len(hidden), device=hidden.device)
        return self.project(hidden[rows, 0 if last is None else last])

    def hidden(self, embeds: Tensor, step: SlotStep) -> Tensor:
        """See `Decoder`."""
        hidden: Tensor = self._model.model(embeds, step.plan, step)
        return hidden

    def project(self, hidden: Tensor) -> Tensor:
        """See `Decoder`."""
        return self._model.project(hidden, self._rows)
