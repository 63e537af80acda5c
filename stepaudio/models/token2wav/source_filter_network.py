"""The network of the source-filter vocoder: mel frames to pitch, voicing and filters.

Shape legend: B batch, M mel bands, T mel frames, D width, E excitations (pulses, noise), J
subframes, P points of a filter, C pitch bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepaudio.models.token2wav.causal_block import CausalBlock
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig

NUM_EXCITATIONS = 2
_MEL_SCALE = 0.2  # log-mel above silence to about one
# A filter of a constant spectrum gives sound whose log-mel is this much higher.
_MEL_OF_UNIT_NOISE = 0.64
_INITIAL_NOISE = -1.5  # relative to the mel; the pulses begin a little below it
_INITIAL_PULSES = -0.5
_PITCH_SHARPNESS = 2.0  # keeps the tails of the distribution out of its mean


@dataclass(frozen=True)
class Controls:
    """What the network tells about every mel frame.

    Attributes:
        pitch_logits: over the pitch bins, at the end of the frame's hop, [B, T, C].
        f0: mean of their distribution in Hz, [B, T].
        voicing: logit of being voiced, at the same moment, [B, T].
        filters: float32 logarithmic magnitudes of both filters, [B, J, E, P].
    """

    pitch_logits: Tensor
    f0: Tensor
    voicing: Tensor
    filters: Tensor


class FrameNetwork(nn.Module):
    """Mel frames to controls."""

    def __init__(self, config: SourceFilterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed = nn.Conv1d(config.in_channels, width, config.kernel_size)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            CausalBlock(
                width, config.intermediate_size, config.kernel_size, 1.0 / config.num_layers
            )
            for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.source_head = nn.Linear(width, config.pitch_bins + 1)
        self.filter_head = nn.Linear(
            width, config.subframes * NUM_EXCITATIONS * config.filter_points
        )
        if not self.filter_head.weight.is_meta:
            self._init_filters()

    def _init_filters(self) -> None:
        levels = torch.tensor([_INITIAL_PULSES, _INITIAL_NOISE]) - _MEL_OF_UNIT_NOISE
        with torch.no_grad():
            self.filter_head.weight.mul_(0.1)
            self.filter_head.bias.view(-1, NUM_EXCITATIONS, self.config.filter_points).copy_(
                levels[:, None].expand(self.config.subframes, -1, self.config.filter_points)
            )

    def above_silence(self, mel: Tensor) -> Tensor:
        """Scale log-mel so that silence is zero, in the type of the weights."""
        return (mel.to(self.embed.weight.dtype) - self.config.silence) * _MEL_SCALE

    def forward(
        self, extended_BMT: Tensor, tails: Sequence[Tensor]
    ) -> tuple[Controls, list[Tensor]]:
        """Tell the controls of the frames behind the tails.

        Args:
            extended_BMT: from `above_silence`, ``kernel_size - 1`` frames more than are told.
            tails: previous inputs of every block, [B, D, kernel_size - 1].

        Returns:
            The controls, and each block's inputs with its tail.
        """
        config = self.config
        x = self.norm(self.embed(extended_BMT).transpose(1, 2)).transpose(1, 2)
        inputs = []
        for block, tail in zip(self.blocks, tails, strict=True):
            x, extended = block(x, tail)
            inputs.append(extended)
        x_BTD = self.final_norm(x.transpose(1, 2))
        source = self.source_head(x_BTD)
        pitch_logits, voicing = source[..., :-1], source[..., -1]
        # The network corrects a copy of the mel, whose highest band goes on above it.
        first = config.kernel_size - 1 - config.lookahead
        mel_BTM = extended_BMT[..., first : first + x_BTD.shape[1]].transpose(1, 2)
        bands = torch.arange(-1, config.filter_points - 1, device=x.device)
        prior = mel_BTM[..., bands.clamp(0, config.in_channels - 1)] / _MEL_SCALE + config.silence
        shape = (config.subframes, NUM_EXCITATIONS, config.filter_points)
        filters = self.filter_head(x_BTD).unflatten(-1, shape) + prior[:, :, None, None]
        controls = Controls(
            pitch_logits, self._f0(pitch_logits), voicing, filters.flatten(1, 2).float()
        )
        return controls, inputs

    def log_f0_bins(self, like: Tensor) -> Tensor:
        """Natural logarithms of the bins' frequencies, [C]."""
        low, high = math.log(self.config.lowest_f0), math.log(self.config.highest_f0)
        steps = torch.arange(self.config.pitch_bins, dtype=like.dtype, device=like.device)
        return low + (high - low) / (self.config.pitch_bins - 1) * steps

    def _f0(self, logits_BTC: Tensor) -> Tensor:
        weights = (logits_BTC * _PITCH_SHARPNESS).softmax(dim=-1)
        return (weights @ self.log_f0_bins(logits_BTC)).exp()
