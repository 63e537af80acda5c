"""The flow: audio tokens and a speaker to mel (specification, section 10).

`Flow` holds the weights under their public names and the pieces that every mode shares. How a
sequence is cut and what is remembered is in `flow_reference` and `flow_exact`.

Shape legend: B batch, T tokens or frames of this call, C mel bands, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.errors import AudioTokenError
from stepaudio.models.token2wav.conformer import EncoderPast, EncoderTrace, UpsampleConformer
from stepaudio.models.token2wav.context import View
from stepaudio.models.token2wav.dit import (
    Condition,
    DiT,
    EstimatorPast,
    EstimatorTrace,
    Modulation,
)
from stepaudio.models.token2wav.flow_config import FlowConfig, SamplerConfig


@dataclass(frozen=True)
class VoicePrompt:
    """A voice, as features of a recording of it.

    Attributes:
        tokens: [P] audio tokens of the recording; may be empty.
        mel: [C, P * frames per token], its log-mel.
        speaker: [E] speaker embedding.
    """

    tokens: Tensor
    mel: Tensor
    speaker: Tensor


def euler_times(sampler: SamplerConfig) -> list[float]:
    """Times from 0 to 1 between which the Euler steps lie, one more than there are steps."""
    fractions = [k / sampler.num_steps for k in range(sampler.num_steps + 1)]
    if sampler.schedule == "linear":
        return fractions
    return [1 - math.cos(0.5 * math.pi * fraction) for fraction in fractions]


class VelocityField(nn.Module):
    """Estimator with classifier-free guidance (arXiv 2207.12598)."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = DiT(config.estimator)

    def forward(
        self,
        x_BCT: Tensor,
        condition: Condition,
        t: Tensor | Modulation,
        past: EstimatorPast,
        visible: Tensor | None = None,
        *,
        cfg_rate: float = 0.0,
    ) -> tuple[Tensor, EstimatorTrace]:
        """Guided velocity, (1 + rate) * conditional - rate * unconditional.

        With guidance the estimator sees a batch of 2B, its second half without condition; `past`
        and the trace have as many rows, and `t` has one. Without, there is no second half, and `t`
        may have B rows.
        """
        if cfg_rate == 0:
            return self.estimator(x_BCT, condition, t, past, visible)
        both = Condition(
            *(
                torch.cat([part, torch.zeros_like(part)])
                for part in (condition.mu, condition.speaker, condition.mel)
            )
        )
        if visible is not None and visible.shape[0] > 1:
            visible = visible.repeat(2, 1, 1, 1)
        velocity, trace = self.estimator(x_BCT.repeat(2, 1, 1), both, t, past, visible)
        conditional, unconditional = velocity.chunk(2)
        return (1 + cfg_rate) * conditional - cfg_rate * unconditional, trace


class Flow(nn.Module):
    """Weights of the flow and what all modes share."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.input_size)
        self.spk_embed_affine_layer = nn.Linear(config.spk_embed_dim, config.output_size)
        self.encoder = UpsampleConformer(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.output_size, config.output_size)
        self.decoder = VelocityField(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder_proj.weight.device

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embeddings [B, E] to the condition [B, C]; their length does not matter."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))

    def encode(
        self, tokens: Tensor, num_valid: Tensor, past: EncoderPast, views: tuple[View, View]
    ) -> tuple[Tensor, EncoderTrace]:
        """Tokens [B, T + lookahead] to mu [B, C, frames]; see `UpsampleConformer.forward`."""
        embedded = self.input_embedding(tokens)
        hidden, trace = self.encoder(embedded, num_valid, past, views)
        return self.encoder_proj(hidden).mT, trace

    def steps(self) -> list[tuple[float, Modulation]]:
        """Length of every Euler step, and what its time does to the estimator."""
        times = euler_times(self.config.sampler)
        weight = self.encoder_proj.weight
        t = torch.tensor(times[:-1], device=weight.device, dtype=weight.dtype)
        lengths = [until - time for time, until in pairwise(times)]
        return list(zip(lengths, self.decoder.estimator.modulation(t).rows(), strict=True))

    def guided_velocity(
        self,
        x_BCT: Tensor,
        condition: Condition,
        time: Modulation,
        past: EstimatorPast,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, EstimatorTrace]:
        """Velocity at the time of a step, guided as the sampler says; see `VelocityField`."""
        rate = self.config.sampler.cfg_rate
        return self.decoder(x_BCT, condition, time, past, visible, cfg_rate=rate)

    def empty_estimator_past(self, batch: int) -> EstimatorPast:
        """Past of `guided_velocity` for so many sequences that have just begun."""
        return self.decoder.estimator.empty_past(batch * self.guidance_rows)

    @property
    def guidance_rows(self) -> int:
        """Rows of the estimator's batch for every sequence: two with guidance, else one."""
        return 2 if self.config.sampler.cfg_rate else 1

    def check_tokens(self, tokens: Tensor) -> Tensor:
        """Audio tokens [n] as int64 on the device of the weights.

        Raises:
            AudioTokenError: a token is outside of the codebook, or the shape is another one.
        """
        kind = tokens.dtype
        if tokens.dim() != 1 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
            raise AudioTokenError(
                f"audio tokens must be integers of shape [n], got {kind} {list(tokens.shape)}"
            )
        size = self.config.vocab_size
        wrong = tokens[(tokens < 0) | (tokens >= size)]
        if len(wrong):
            raise AudioTokenError(
                f"audio token {int(wrong[0])} is outside of the codebook 0 to {size - 1}: "
                "subtract the id of <audio_0> from the ids of the language model"
            )
        return tokens.to(self.device, torch.long)

    def check_prompt(self, prompt: VoicePrompt) -> VoicePrompt:
        """The prompt on the device of the weights.

        Raises:
            AudioTokenError: a token is outside of the codebook.
            ValueError: the shapes do not fit each other or the configuration.
        """
        config = self.config
        tokens = self.check_tokens(prompt.tokens)
        shape = (config.output_size, len(tokens) * config.frames_per_token)
        if prompt.mel.shape != shape:
            raise ValueError(f"the mel of the prompt must be {shape}, got {prompt.mel.shape}")
        if prompt.speaker.shape != (config.spk_embed_dim,):
            raise ValueError(
                f"the speaker embedding must be [{config.spk_embed_dim}], "
                f"got {list(prompt.speaker.shape)}"
            )
        dtype = self.encoder_proj.weight.dtype
        return VoicePrompt(
            tokens, prompt.mel.to(self.device, dtype), prompt.speaker.to(self.device, dtype)
        )
