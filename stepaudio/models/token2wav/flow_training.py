"""Velocity of whole utterances with gradients, under the mask of either mode.

With a chunk schedule the computation is that of `flow_exact`: the prompt on its own, then
everything behind it in one call of many chunks. Without one every frame sees every frame, as the
public model does offline.

Shape legend: B batch, N tokens, T frames, C mel bands, E speaker embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stepaudio.models.token2wav.chunks import ChunkSchedule, Spans, context_view, prompt_view
from stepaudio.models.token2wav.conformer import EncoderPast
from stepaudio.models.token2wav.context import View, take_tail
from stepaudio.models.token2wav.dit import Condition, EstimatorPast
from stepaudio.models.token2wav.flow import Flow


@dataclass(frozen=True)
class FlowBatch:
    """Utterances with their voices.

    Attributes:
        tokens: [B, N] audio tokens, padded with any valid token.
        token_lens: [B].
        mel: [B, C, N * frames per token], padded with any finite numbers.
        speaker: [B, E] speaker embeddings.
    """

    tokens: Tensor
    token_lens: Tensor
    mel: Tensor
    speaker: Tensor


@dataclass(frozen=True)
class FlowPoint:
    """A point on the way from noise to mel, and under which conditions it is seen.

    Attributes:
        x: [B, C, T], the noisy mel.
        times: [B], between 0 and 1.
        prompt_lens: [B], first tokens of every utterance, whose mel is known.
        conditioned: [B], whether the row has its condition; without, it trains the unconditional
            half of guidance.
        schedule: chunks in tokens; None: every frame sees every frame.
    """

    x: Tensor
    times: Tensor
    prompt_lens: Tensor
    conditioned: Tensor
    schedule: ChunkSchedule | None


class Estimate(NamedTuple):
    """What a flow makes of a point; behind the end of a row it is anything.

    Attributes:
        velocity: [B, C, T] of the estimator, unguided.
        mu: [B, C, T], what the encoder made of the tokens.
    """

    velocity: Tensor
    mu: Tensor


def velocity_at(flow: Flow, batch: FlowBatch, point: FlowPoint) -> Tensor:
    """Velocity [B, C, T] alone, see `estimate_at`."""
    return estimate_at(flow, batch, point).velocity


def estimate_at(flow: Flow, batch: FlowBatch, point: FlowPoint) -> Estimate:
    """Velocity of the estimator and the encoder's output under the mask of the point."""
    if point.schedule is None:
        return _full(flow, batch, point)
    return _chunked(flow, batch, point, point.schedule)


def valid_frames(flow: Flow, batch: FlowBatch) -> Tensor:
    """Boolean [B, T], true inside every utterance."""
    return _frames(flow, batch.token_lens, batch.mel.shape[-1])


def _frames(flow: Flow, token_lens: Tensor, size: int) -> Tensor:
    index = torch.arange(size, device=token_lens.device)
    return index < token_lens[:, None] * flow.config.frames_per_token


def _estimate(
    flow: Flow, point: FlowPoint, x: Tensor, given: Condition, past: EstimatorPast, view: View
) -> tuple[Tensor, EstimatorPast]:
    """Velocity at `x`; as memory the convolution inputs, uncut, and the new keys and values."""
    keep = point.conditioned[:, None]
    kept = Condition(given.mu * keep[..., None], given.speaker * keep, given.mel * keep[..., None])
    velocity, trace = flow.decoder(x, kept, point.times, past, view.visible)
    return velocity, EstimatorPast(trace.conv, (trace.new,))


def _full(flow: Flow, batch: FlowBatch, point: FlowPoint) -> Estimate:
    rows, size = batch.tokens.shape
    views = _prompt_views(flow, batch.token_lens, size)
    tokens = _shifted(batch.tokens, None, size + flow.config.lookahead_tokens)
    mu, _ = flow.encode(tokens, batch.token_lens, flow.encoder.empty_past(rows), views)
    known = batch.mel * _frames(flow, point.prompt_lens, batch.mel.shape[-1])[:, None]
    given = Condition(mu, flow.speaker(batch.speaker), known)
    past = flow.decoder.estimator.empty_past(rows)
    return Estimate(_estimate(flow, point, point.x, given, past, views[1])[0], mu)


def _chunked(flow: Flow, batch: FlowBatch, point: FlowPoint, schedule: ChunkSchedule) -> Estimate:
    """Prompt, then what is behind it; both are put together in the order of the utterance."""
    factor, lookahead = flow.config.frames_per_token, flow.config.lookahead_tokens
    rows, size = batch.tokens.shape
    lens = point.prompt_lens
    frames = lens * factor
    longest = max(1, int(lens.max()))  # a convolution needs something to convolve
    speaker = flow.speaker(batch.speaker)

    empty, start = flow.encoder.empty_past(rows), flow.decoder.estimator.empty_past(rows)
    views = _prompt_views(flow, lens, longest)
    tokens = _shifted(batch.tokens, None, longest + lookahead)
    prompt_mu, trace = flow.encode(tokens, lens, empty, views)
    given = Condition(prompt_mu, speaker, batch.mel[..., : longest * factor])
    x = point.x[..., : longest * factor]
    prompt_velocity, memory = _estimate(flow, point, x, given, start, views[1])

    past = EncoderPast(
        take_tail(trace.lookahead, lens, empty.lookahead.shape[-1]),
        take_tail(trace.upsample, frames, empty.upsample.shape[-1]),
        (trace.tokens,),
        (trace.frames,),
    )
    spans = Spans(lens, torch.zeros_like(lens), batch.token_lens - lens)
    rest = max(1, int(spans.counts.max()))
    views = _context_views(flow, schedule, spans, longest, rest)
    tokens = _shifted(batch.tokens, lens, rest + lookahead)
    mu, _ = flow.encode(tokens, spans.counts, past, views)
    tails = take_tail(memory.tails, frames[:, None], start.tails.shape[-1])
    given = Condition(mu, speaker, torch.zeros_like(mu))
    x = _shifted(point.x, frames, rest * factor)
    behind = EstimatorPast(tails, memory.parts)
    velocity, _ = _estimate(flow, point, x, given, behind, views[1])
    in_prompt = _frames(flow, lens, size * factor)[:, None]
    return Estimate(
        *(
            torch.where(
                in_prompt,
                _shifted(prompt, None, size * factor),
                _shifted(rest_of_it, -frames, size * factor),
            )
            for prompt, rest_of_it in ((prompt_velocity, velocity), (prompt_mu, mu))
        )
    )


def _prompt_views(flow: Flow, lens: Tensor, size: int) -> tuple[View, View]:
    factor = flow.config.frames_per_token
    return prompt_view(lens, size), prompt_view(lens * factor, size * factor)


def _context_views(
    flow: Flow, schedule: ChunkSchedule, spans: Spans, prompt_size: int, size: int
) -> tuple[View, View]:
    """Views of everything behind the prompt in one call, without left context."""
    factor = flow.config.frames_per_token
    scaled = schedule.scaled(factor), spans.scaled(factor)
    return (
        context_view(schedule, spans, prompt_size, 0, size),
        context_view(*scaled, prompt_size * factor, 0, size * factor),
    )


def _shifted(x: Tensor, offsets: Tensor | None, size: int) -> Tensor:
    """Column i is column i + offset of `x` [B, ..., n], or the nearest that there is."""
    index = torch.arange(size, device=x.device)
    if offsets is None:
        return x[..., index.clamp(max=x.shape[-1] - 1)]
    index = (index + offsets[:, None]).clamp(0, x.shape[-1] - 1)
    index = index.view(len(x), *[1] * (x.dim() - 2), size)
    return x.gather(-1, index.expand(*x.shape[:-1], size))
