"""Training losses as pure tensor functions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.encoder import Latents
from stepaudio.models.token2wav.chunks import ChunkSchedule
from stepaudio.models.token2wav.flow import Flow
from stepaudio.models.token2wav.flow_training import (
    FlowBatch,
    FlowPoint,
    estimate_at,
    valid_frames,
    velocity_at,
)


def ctc_loss(log_probs: Latents, targets: Tensor, target_lens: Tensor) -> Tensor:
    """Mean CTC loss per target token.

    Args:
        log_probs: [B, T, V] log-probabilities with the blank at index 0, and valid lengths.
        targets: [B, U] ids from 1, padded with anything.
        target_lens: [B].

    Returns:
        Scalar. Clips too short for their target count as zero.
    """
    losses = F.ctc_loss(
        log_probs.values.transpose(0, 1),
        targets,
        log_probs.lengths,
        target_lens,
        reduction="none",
        zero_infinity=True,
    )
    return losses.sum() / target_lens.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class FlowTraining:
    """What a flow sees in training; the chances are those of CosyVoice 2 (arXiv 2412.10117).

    Attributes:
        drop_condition: share of rows without any condition, which train guidance.
        prompt_share: share of rows that have a prompt.
        longest_prompt: longest prompt as a part of the utterance.
        chunk_tokens: shortest and longest chunk, drawn for every batch; None: every frame sees
            every frame.
        left_context_tokens: shortest and longest left context.
    """

    drop_condition: float = 0.2
    prompt_share: float = 0.5
    longest_prompt: float = 0.3
    chunk_tokens: tuple[int, int] | None = None
    left_context_tokens: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class FlowDraw:
    """Random choices of one training step.

    Attributes:
        noise: [B, C, T].
        times: [B], between 0 and 1.
        prompt_lens: [B], tokens.
        conditioned: [B] bool.
        schedule: chunks in tokens, or None.
    """

    noise: Tensor
    times: Tensor
    prompt_lens: Tensor
    conditioned: Tensor
    schedule: ChunkSchedule | None


def draw_flow(batch: FlowBatch, options: FlowTraining, generator: torch.Generator) -> FlowDraw:
    """Draw noise, times (denser near 0: 1 - cos(pi/2 u)), prompts, conditions and chunks."""
    rows, device = len(batch.tokens), batch.mel.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    def between(bounds: tuple[int, int]) -> int:
        return int(torch.randint(bounds[0], bounds[1] + 1, (), generator=generator))

    part = uniform(rows) * options.longest_prompt * (uniform(rows) < options.prompt_share)
    schedule = None
    if options.chunk_tokens is not None:
        later = between(options.chunk_tokens)
        first = between((options.chunk_tokens[0], later))
        schedule = ChunkSchedule((first,), later, between(options.left_context_tokens))
    return FlowDraw(
        torch.randn(batch.mel.shape, generator=generator).to(device),
        1 - torch.cos(uniform(rows) * (0.5 * math.pi)),
        (part * batch.token_lens).long(),
        uniform(rows) >= options.drop_condition,
        schedule,
    )


class FlowLosses(NamedTuple):
    """Losses of a flow, scalars.

    Attributes:
        velocity: of the flow matching itself.
        prior: of the encoder's output plus the speaker condition as a guess of the mel, which
            shows the encoder the way from the first step on (the prior loss of arXiv 2105.06337).
    """

    velocity: Tensor
    prior: Tensor


def flow_matching_loss(
    flow: Flow,
    batch: FlowBatch,
    draw: FlowDraw,
    *,
    sigma_min: float = 1e-6,
    with_prompt: bool = True,
) -> FlowLosses:
    """Conditional flow-matching loss on straight paths (arXiv 2210.02747, section 4.1).

    Args:
        flow: the model.
        batch: utterances.
        draw: random choices, see `draw_flow`.
        sigma_min: width of the distribution around the mel at time 1.
        with_prompt: whether the frames of prompts count, whose mel the model is given.

    Returns:
        Mean squared errors over bands and valid frames.
    """
    point = _point(batch, draw, sigma_min)
    target = batch.mel - (1 - sigma_min) * draw.noise
    counted = valid_frames(flow, batch)
    if not with_prompt:
        counted &= ~valid_frames(flow, replace(batch, token_lens=draw.prompt_lens))
    velocity, mu = estimate_at(flow, batch, point)
    prior = mu + flow.speaker(batch.speaker)[..., None]
    return FlowLosses(
        _squared_error(counted, velocity, target), _squared_error(counted, prior, batch.mel)
    )


def flow_distillation_loss(
    student: Flow, teacher: Flow, batch: FlowBatch, draw: FlowDraw, *, sigma_min: float = 1e-6
) -> Tensor:
    """Error of an unguided student against the guided velocity of its teacher (arXiv 2210.03142).

    The student learns to need no second batch: use it with ``cfg_rate`` 0. Its unconditional
    velocity is of no use, so that the draw should keep all conditions.

    Returns:
        Scalar: mean squared error of the velocity.
    """
    point = _point(batch, draw, sigma_min)
    rate = teacher.config.sampler.cfg_rate
    with torch.no_grad():
        target = velocity_at(teacher, batch, point)
        if rate:
            nothing = replace(point, conditioned=torch.zeros_like(point.conditioned))
            target = (1 + rate) * target - rate * velocity_at(teacher, batch, nothing)
    counted = valid_frames(student, batch)
    return _squared_error(counted, velocity_at(student, batch, point), target)


def _point(batch: FlowBatch, draw: FlowDraw, sigma_min: float) -> FlowPoint:
    t = draw.times[:, None, None]
    x = (1 - (1 - sigma_min) * t) * draw.noise + t * batch.mel
    return FlowPoint(x, draw.times, draw.prompt_lens, draw.conditioned, draw.schedule)


def _squared_error(counted: Tensor, values: Tensor, target: Tensor) -> Tensor:
    frames = counted[:, None]
    error = ((values - target) * frames).square().sum()
    return error / (frames.sum() * target.shape[1]).clamp(min=1)


def speaker_loss(
    embeddings: Tensor, centres: Tensor, speakers: Tensor, *, scale: float = 16.0
) -> Tensor:
    """Cross-entropy of a cosine classifier of speakers (normalised softmax, arXiv 1704.06369).

    Args:
        embeddings: [B, E].
        centres: [S, E], one learnt direction for every speaker.
        speakers: [B], which one it is.
        scale: of the cosines.

    Returns:
        Scalar.
    """
    cosines = F.normalize(embeddings, dim=-1) @ F.normalize(centres, dim=-1).T
    return F.cross_entropy(scale * cosines, speakers)
