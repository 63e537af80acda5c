"""Mel decoding whose streamed mel equals its offline mel, however the tokens arrive.

One chunk mask with chunks at absolute positions holds for offline and streamed decoding; noise is
a function of the absolute position; convolutions continue from their tails; and the lookahead of
a chunk is the tokens behind it, or zeros behind the end. The prompt is decoded once, on its own
(zeros behind its end too), and its keys and values are visible to every chunk. Memory does not
grow with the stream. Offline decoding is the same code with many chunks in a call.

Sessions at different positions, in different voices, are decoded in one batch.

Shape legend: N sessions, C mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.errors import AudioTokenError
from stepaudio.models.token2wav.chunks import Spans, context_view
from stepaudio.models.token2wav.conformer_fused import Distances, FusedEncoderPast
from stepaudio.models.token2wav.context import View, additive_mask, full_view
from stepaudio.models.token2wav.dit_fused import FusedPast
from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.flow_batch import (
    Row,
    encoder_behind,
    estimator_behind,
    stack_encoder,
    stack_estimator,
)
from stepaudio.models.token2wav.flow_fused import FusedFlow
from stepaudio.models.token2wav.noise import positional_noise

# Different noise for prompt and speech, and for other users of the same seed.
_PROMPT_NOISE, _SPEECH_NOISE = 1 << 40, 2 << 40
_TOKENS_PER_CALL = 200  # bounds the memory of offline decoding


@dataclass(frozen=True)
class ExactVoice:
    """A voice, decoded once; every stream in this voice shares it.

    Attributes:
        num_tokens: tokens of the prompt.
        speaker: condition of the estimator, [C].
        encoder: tails, keys and values behind the prompt.
        estimator: the same at every Euler step.
        distances: what the encoder makes of all distances in this voice.
    """

    num_tokens: int
    speaker: Tensor
    encoder: FusedEncoderPast
    estimator: tuple[FusedPast, ...]
    distances: tuple[Distances, Distances]


@dataclass(frozen=True)
class ExactState:
    """Streaming state of one session, a value that `step` takes and returns.

    Attributes:
        voice: the voice.
        seed: of the noise.
        num_tokens: tokens that have become mel.
        pending: tokens behind them that have arrived.
        encoder: tails, keys and values of the left context.
        estimator: the same at every Euler step.
        finished: whether the last token has been decoded.
    """

    voice: ExactVoice
    seed: int
    num_tokens: int
    pending: Tensor
    encoder: FusedEncoderPast
    estimator: tuple[FusedPast, ...]
    finished: bool = False


@dataclass(frozen=True)
class _Work:
    """What one session does in a call: decode `count` of the pending tokens."""

    state: ExactState
    count: int

    @property
    def left(self) -> int:
        """Tokens of its own left context, which grows up to what the schedule says."""
        return self.state.encoder.tokens[0].shape[2]


class ExactMelDecoder:
    """Audio tokens to mel in "exact" mode.

    Args:
        flow: its weights are copied in part, so that later changes need another decoder.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._fused = FusedFlow(flow)
        streaming = flow.config.streaming
        self._schedule = streaming.schedule

    @torch.no_grad()
    def prepare(self, prompt: VoicePrompt) -> ExactVoice:
        """Decode a prompt once for all streams in its voice.

        Raises:
            AudioTokenError: a token of the prompt is outside of the codebook.
            ValueError: the prompt does not fit the configuration.
        """
        flow, fused = self.flow, self._fused
        prompt = flow.check_prompt(prompt)
        speaker = flow.speaker(prompt.speaker[None])
        size, schedule = len(prompt.tokens), self._schedule
        longest = schedule.longest
        distances = fused.encoder.distances(
            1 - max(size, longest), size + schedule.left + longest - 1
        )
        if size == 0:
            return ExactVoice(0, speaker[0], *self._empty(), distances)
        factor = flow.config.frames_per_token
        lens = torch.tensor([size], device=flow.device)
        views = full_view(size, 0, flow.device), full_view(size * factor, 0, flow.device)
        padded = F.pad(prompt.tokens, (0, flow.config.lookahead_tokens))[None]
        past = fused.encoder.empty_past()
        mu, trace = fused.encode(padded, lens, past, views, distances)
        # The prompt is a session of its own that remembers all of it.
        row = Row(0, 1, size, size)
        no_encoder, no_estimator = self._empty()
        encoder = encoder_behind(row, no_encoder, trace, factor)
        given = fused.estimator.given(mu, speaker, prompt.mel.mT[None])
        x = self._noise([flow.config.sampler.noise_seed + _PROMPT_NOISE], [0], mu)
        estimator = []
        for step, length in enumerate(fused.lengths):
            velocity, left = fused.estimator(x, given, step, fused.estimator.empty_past(), None)
            x = torch.add(x, velocity, alpha=length)
            estimator.append(estimator_behind(row.scaled(factor), no_estimator[step], left))
        return ExactVoice(size, speaker[0], encoder, tuple(estimator), distances)

    def init_state(self, voice: ExactVoice, *, seed: int | None = None) -> ExactState:
        """State of a stream before its first token; `seed` None: the one of the configuration."""
        left_encoder, left_estimator = self._empty()
        pairs = zip(voice.estimator, left_estimator, strict=True)
        return ExactState(
            voice,
            self.flow.config.sampler.noise_seed if seed is None else seed,
            0,
            torch.zeros(0, dtype=torch.long, device=self.flow.device),
            replace(voice.encoder, tokens=left_encoder.tokens, frames=left_encoder.frames),
            tuple(replace(behind, parts=left.parts) for behind, left in pairs),
        )

    def generate(self, tokens: Tensor, voice: ExactVoice, *, seed: int | None = None) -> Tensor:
        """Decode all tokens, many chunks at a time.

        Args:
            tokens: [n] audio tokens.
            voice: what `prepare` returned.
            seed: of the noise; None: the one of the configuration.

        Returns:
            Mel [C, n * frames per token].

        Raises:
            AudioTokenError: there is no token, or one outside of the codebook.
        """
        if not len(tokens):
            raise AudioTokenError("there are no audio tokens to decode")
        [mel], _ = self.step([tokens], [self.init_state(voice, seed=seed)], [True])
        return mel

    @torch.no_grad()
    def step(
        self, tokens: Sequence[Tensor], states: Sequence[ExactState], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[ExactState]]:
        """Take the next tokens of every session, any number of them, and decode full chunks.

        A chunk is decoded when its lookahead has arrived, too.

        Args:
            tokens: [n] for every session.
            states: what `init_state` or the previous call returned; they are not changed.
            last: whether a session's tokens end here; then the rest is decoded too.

        Returns:
            Mel [C, t] of every session, t may be 0, and the new states.

        Raises:
            AudioTokenError: a token is outside of the codebook.
            ValueError: a session has already ended.
        """
        if any(state.finished for state in states):
            raise ValueError("a stream has ended: begin a new one with init_state")
        current = [
            replace(state, pending=torch.cat([state.pending, self.flow.check_tokens(new)]))
            for new, state in zip(tokens, states, strict=True)
        ]
        empty = self.flow.encoder_proj.weight.new_zeros(self.flow.config.output_size, 0)
        mels = [[empty] for _ in current]
        while True:
            counts = [self._ready(*row) for row in zip(current, last, strict=True)]
            active = [i for i, count in enumerate(counts) if count]
            if not active:
                break
            done = self._decode([_Work(current[i], counts[i]) for i in active])
            for i, (mel, state) in zip(active, done, strict=True):
                mels[i].append(mel)
                current[i] = state
        ended = [replace(s, finished=end) for s, end in zip(current, last, strict=True)]
        return [torch.cat(pieces, dim=-1) for pieces in mels], ended

    def _ready(self, state: ExactState, last: bool) -> int:
        """How many pending tokens the next call decodes: whole chunks, but at the end all."""
        start, num_pending = state.num_tokens, len(state.pending)
        if last and num_pending <= _TOKENS_PER_CALL:
            return num_pending
        # One chunk at least, however large the configuration makes it.
        longest = max(self._schedule.longest, _TOKENS_PER_CALL)
        known = num_pending if last else num_pending - self.flow.config.lookahead_tokens
        whole = self._schedule.whole(start, start + min(known, longest))
        return num_pending if last and not whole else whole

    def _decode(self, work: Sequence[_Work]) -> list[tuple[Tensor, ExactState]]:
        """Decode a batch of sessions, each at its own position."""
        fused, states = self._fused, [item.state for item in work]
        factor = self.flow.config.frames_per_token
        rows = [Row(n, len(work), item.count, self._schedule.left) for n, item in enumerate(work)]
        frame_rows = [row.scaled(factor) for row in rows]
        views = self._views(work)
        voices = [state.voice for state in states]
        distances = max(voices, key=lambda voice: voice.num_tokens).distances
        past = stack_encoder([s.encoder for s in states], [voice.encoder for voice in voices])
        mu, trace = fused.encode(*self._windows(work), past, views, distances)
        encoders = [
            encoder_behind(row, state.encoder, trace, factor)
            for row, state in zip(rows, states, strict=True)
        ]
        speaker = torch.stack([voice.speaker for voice in voices])
        given = fused.estimator.given(mu, speaker, None)
        seeds = [state.seed + _SPEECH_NOISE for state in states]
        x = self._noise(seeds, [state.num_tokens * factor for state in states], mu)
        mask = self._mask(views[1], x)
        memories: list[list[FusedPast]] = [[] for _ in work]
        for step, length in enumerate(fused.lengths):
            memory = stack_estimator(
                [state.estimator[step] for state in states],
                [voice.estimator[step] for voice in voices],
            )
            velocity, made = fused.estimator(x, given, step, memory, mask)
            x = torch.add(x, velocity, alpha=length)
            for row, state, kept in zip(frame_rows, states, memories, strict=True):
                kept.append(estimator_behind(row, state.estimator[step], made))
        return [
            (
                x[n, : frame_rows[n].count].T.contiguous(),
                replace(
                    item.state,
                    num_tokens=item.state.num_tokens + item.count,
                    pending=item.state.pending[item.count :],
                    encoder=encoders[n],
                    estimator=tuple(memories[n]),
                ),
            )
            for n, item in enumerate(work)
        ]

    def _windows(self, work: Sequence[_Work]) -> tuple[Tensor, Tensor]:
        """Tokens of every session with their lookahead, and how many there are."""
        lookahead = self.flow.config.lookahead_tokens
        size = max(item.count for item in work) + lookahead
        windows = [item.state.pending[: item.count + lookahead] for item in work]
        tokens = torch.stack([F.pad(w, (0, size - len(w))) for w in windows])
        return tokens, torch.tensor([len(w) for w in windows], device=tokens.device)

    def _views(self, work: Sequence[_Work]) -> tuple[View, View]:
        """What tokens and frames of every session see."""
        device, factor = self.flow.device, self.flow.config.frames_per_token
        prompts = [item.state.voice.num_tokens for item in work]
        lefts, counts = [item.left for item in work], [item.count for item in work]
        if self._see_everything(work, prompts, lefts):
            size, past = counts[0], prompts[0] + lefts[0]
            return full_view(size, past, device), full_view(size * factor, past * factor, device)
        spans = Spans(
            torch.tensor(prompts, device=device),
            torch.tensor([item.state.num_tokens for item in work], device=device),
            torch.tensor(counts, device=device),
        )
        sizes = max(prompts), max(lefts), max(counts)
        frame_sizes = sizes[0] * factor, sizes[1] * factor, sizes[2] * factor
        return (
            context_view(self._schedule, spans, *sizes),
            context_view(self._schedule.scaled(factor), spans.scaled(factor), *frame_sizes),
        )

    def _see_everything(
        self, work: Sequence[_Work], prompts: Sequence[int], lefts: Sequence[int]
    ) -> bool:
        """Whether every session is within one chunk, and none needs padding."""
        counts = [item.count for item in work]
        same = all(min(sizes) == max(sizes) for sizes in (prompts, lefts, counts))
        starts = [item.state.num_tokens for item in work]
        return same and all(counts[0] <= self._schedule.size_from(start) for start in starts)

    def _mask(self, view: View, like: Tensor) -> Tensor | None:
        """Additive mask of the estimator's rows."""
        mask = additive_mask(view.visible, like)
        rows = self._fused.estimator.rows_per_session
        return mask if mask is None or len(mask) == 1 else mask.repeat(rows, 1, 1, 1)

    def _noise(self, seeds: Sequence[int], starts: Sequence[int], like: Tensor) -> Tensor:
        shape = (like.shape[2], like.shape[1])
        noise = positional_noise(seeds, starts, shape, like.device)
        return (noise * self.flow.config.sampler.temperature).to(like.dtype).mT.contiguous()

    def _empty(self) -> tuple[FusedEncoderPast, tuple[FusedPast, ...]]:
        """Memory of one session that remembers nothing."""
        fused, encoder = self._fused, self.flow.config.encoder
        estimator, weight = self.flow.config.estimator, self.flow.encoder_proj.weight
        width = encoder.output_size // encoder.attention_heads
        tokens, frames = (
            weight.new_zeros(layers, 1, 0, 2 * encoder.attention_heads, width)
            for layers in (encoder.num_blocks, encoder.num_up_blocks)
        )
        rows = fused.estimator.rows_per_session
        kept = weight.new_zeros(
            estimator.depth, rows, 0, 2 * estimator.num_heads, estimator.head_dim
        )
        return (
            replace(fused.encoder.empty_past(), tokens=(tokens,), frames=(frames,)),
            (replace(fused.estimator.empty_past(), parts=(kept,)),) * len(fused.lengths),
        )
