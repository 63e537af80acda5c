"""Mel decoding exactly as the public code does it, with its quirks (specification, section 10).

Streamed mel is not the offline mel here: the prompt is followed by a copy of its own first tokens
when a stream begins, caches are trimmed in an odd order, and offline every frame sees everything.
The encoder's cache grows with the stream. Use `flow_exact` where the checkpoint was trained for it.

Sessions of one call are decoded one after the other, as the public code does.

Shape legend: C mel bands, P tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.errors import AudioTokenError
from stepaudio.models.token2wav.conformer import EncoderPast
from stepaudio.models.token2wav.context import KeyValues, View, full_view
from stepaudio.models.token2wav.dit import Condition, EstimatorPast, EstimatorTrace
from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.noise import positional_noise

NoiseSource = Callable[[Sequence[int], Sequence[int], tuple[int, int], torch.device], Tensor]


@dataclass(frozen=True)
class ReferenceState:
    """Streaming state of one session, a value that `step` takes and returns.

    Attributes:
        prompt: the voice.
        seed: of the noise.
        pending: tokens that have not become mel yet.
        encoder: memory of the encoder.
        estimator: memory of the estimator at every Euler step.
        finished: whether the last token has been decoded.
    """

    prompt: VoicePrompt
    seed: int
    pending: Tensor
    encoder: EncoderPast
    estimator: tuple[EstimatorPast, ...]
    finished: bool = False


@dataclass(frozen=True)
class ReferenceVoice:
    """A voice: its prompt, and the state of a stream behind it."""

    prompt: VoicePrompt
    start: ReferenceState


class ReferenceMelDecoder:
    """Audio tokens to mel in "reference" mode."""

    def __init__(self, flow: Flow, noise: NoiseSource = positional_noise) -> None:
        """Decode with the weights of `flow`; `noise` is called like `positional_noise`."""
        self.flow = flow
        self._noise = noise

    @torch.no_grad()
    def generate(self, tokens: Tensor, voice: ReferenceVoice, *, seed: int | None = None) -> Tensor:
        """Decode all tokens at once.

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
        flow, prompt = self.flow, voice.prompt
        everything = torch.cat([prompt.tokens, flow.check_tokens(tokens)])
        past = flow.encoder.empty_past(1)
        mu, _ = flow.encode(*self._padded(everything), past, self._views(len(everything), 0))
        known = F.pad(prompt.mel, (0, mu.shape[-1] - prompt.mel.shape[-1]))[None]
        x = self._initial(self._seed(seed), 0, mu)
        condition = Condition(mu, flow.speaker(prompt.speaker[None]), known)
        start = flow.empty_estimator_past(1)
        for length, time in flow.steps():
            x = x + length * flow.guided_velocity(x, condition, time, start)[0]
        return x[0, :, prompt.mel.shape[-1] :]

    @torch.no_grad()
    def prepare(self, prompt: VoicePrompt) -> ReferenceVoice:
        """Decode a prompt once for all streams in its voice.

        Raises:
            AudioTokenError: a token of the prompt is outside of the codebook.
            ValueError: the prompt does not fit the configuration, or is shorter than the
                lookahead.
        """
        flow = self.flow
        prompt = flow.check_prompt(prompt)
        lookahead = flow.config.lookahead_tokens
        if len(prompt.tokens) < max(lookahead, 1):
            raise ValueError(f"the prompt must have at least {max(lookahead, 1)} tokens")
        start = ReferenceState(
            prompt,
            flow.config.sampler.noise_seed,
            prompt.tokens[:0],
            flow.encoder.empty_past(1),
            (flow.empty_estimator_past(1),) * flow.config.sampler.num_steps,
        )
        fake = torch.cat([prompt.tokens, prompt.tokens[:lookahead]])[None]
        return ReferenceVoice(prompt, self._decode(fake, fake.shape[1], start, prompt.mel[None])[1])

    def init_state(self, voice: ReferenceVoice, *, seed: int | None = None) -> ReferenceState:
        """State of a stream before its first token; `seed` None: the one of the configuration."""
        return replace(voice.start, seed=self._seed(seed))

    def step(
        self, tokens: Sequence[Tensor], states: Sequence[ReferenceState], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[ReferenceState]]:
        """Take the next tokens of every session, any number of them, and decode full chunks.

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
        rows = [self._advance(*row) for row in zip(tokens, states, last, strict=True)]
        return [mel for mel, _ in rows], [state for _, state in rows]

    @torch.no_grad()
    def _advance(
        self, tokens: Tensor, state: ReferenceState, last: bool
    ) -> tuple[Tensor, ReferenceState]:
        if state.finished:
            raise ValueError("this stream has ended: begin a new one with init_state")
        config = self.flow.config
        chunk = config.streaming.chunk_tokens
        window = chunk + config.lookahead_tokens
        pending = torch.cat([state.pending, self.flow.check_tokens(tokens)])
        pieces = [state.prompt.mel[:, :0]]
        while len(pending) >= window:
            mel, state = self._decode(pending[None, :window], window, state)
            pieces.append(mel)
            pending = pending[chunk:]
        if last and len(pending):
            padded, num_valid = self._padded(pending)
            mel, state = self._decode(padded, int(num_valid), state)
            pieces.append(mel)
            pending = pending[:0]
        return torch.cat(pieces, dim=-1), replace(state, pending=pending, finished=last)

    def _decode(
        self, tokens: Tensor, num_valid: int, state: ReferenceState, known: Tensor | None = None
    ) -> tuple[Tensor, ReferenceState]:
        """Decode T of [1, T + lookahead] tokens; `known` is the mel that they should have."""
        flow = self.flow
        size = tokens.shape[1] - flow.config.lookahead_tokens
        past = state.encoder
        views = self._views(size, past.tokens[0].length if past.tokens else 0)
        valid = torch.tensor([num_valid], device=flow.device)
        mu, trace = flow.encode(tokens, valid, past, views)
        encoder = EncoderPast(
            trace.lookahead[..., -past.lookahead.shape[-1] :].clone(),
            trace.upsample[..., -past.upsample.shape[-1] :].clone(),
            (_joined(*past.tokens, trace.tokens),),
            (_joined(*past.frames, trace.frames),),
        )
        mel = torch.zeros_like(mu) if known is None else known
        condition = Condition(mu, flow.speaker(state.prompt.speaker[None]), mel)
        cached = state.estimator[0].parts
        # The public code takes the noise from where its trimmed cache ends.
        x = self._initial(state.seed, cached[0].length if cached else 0, mu)
        memories = []
        for (length, time), memory in zip(flow.steps(), state.estimator, strict=True):
            velocity, left = flow.guided_velocity(x, condition, time, memory)
            x = x + length * velocity
            memories.append(self._trimmed(memory, left, state.prompt.mel.shape[-1]))
        return x[0], replace(state, encoder=encoder, estimator=tuple(memories))

    def _trimmed(
        self, memory: EstimatorPast, trace: EstimatorTrace, num_prompt_frames: int
    ) -> EstimatorPast:
        """New frames are put in front of old ones, and the middle is dropped."""
        config = self.flow.config
        kept = config.streaming.left_context_tokens * config.frames_per_token
        cache = _joined(trace.new, *memory.parts)
        if cache.length > num_prompt_frames + kept:
            cache = KeyValues(
                *(
                    torch.cat([x[..., :num_prompt_frames, :], x[..., x.shape[-2] - kept :, :]], -2)
                    for x in (cache.keys, cache.values)
                )
            )
        return EstimatorPast(trace.conv[..., -memory.tails.shape[-1] :].clone(), (cache,))

    def _padded(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [1, n + lookahead] of a sequence that ends, and the number of true ones."""
        padded = F.pad(tokens, (0, self.flow.config.lookahead_tokens))[None]
        return padded, torch.tensor([len(tokens)], device=tokens.device)

    def _views(self, size: int, num_past: int) -> tuple[View, View]:
        factor, device = self.flow.config.frames_per_token, self.flow.device
        return (
            full_view(size, num_past, device),
            full_view(size * factor, num_past * factor, device),
        )

    def _initial(self, seed: int, start: int, mu: Tensor) -> Tensor:
        noise = self._noise([seed], [start], (mu.shape[1], mu.shape[2]), mu.device)
        return (noise * self.flow.config.sampler.temperature).to(mu.dtype)

    def _seed(self, seed: int | None) -> int:
        return self.flow.config.sampler.noise_seed if seed is None else seed


def _joined(*parts: KeyValues) -> KeyValues:
    return KeyValues(
        torch.cat([part.keys for part in parts], dim=-2),
        torch.cat([part.values for part in parts], dim=-2),
    )
