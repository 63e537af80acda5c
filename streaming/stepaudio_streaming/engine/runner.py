"""The model's passes for all sessions: lines in fixed slots, voices, hearing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepaudio.audio.vad import VoiceActivityDetector, silero_detector
from stepaudio.errors import CapacityError
from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.token2wav.token2wav import SpeechState, SpeechVoice, Token2Wav
from stepaudio.tasks.step_audio import StepAudio
from stepaudio_streaming.audio import StreamResampler
from stepaudio_streaming.engine.hearing import Hear
from stepaudio_streaming.engine.parts import Finish, Heard, Line, Token
from stepaudio_streaming.engine.slots import SlotMemory, named_tokens
from stepaudio_streaming.events import OUTPUT_RATE, Samples


@dataclass
class _Held:
    """What is decoded in one slot."""

    params: SamplingParams
    adapter: int
    stops: frozenset[int]
    budget: int
    ids: list[int] = field(default_factory=list)


@dataclass
class _Reading:
    """A prompt on its way into a slot.

    Attributes:
        line: it belongs to this line.
        named: its tokens, see `named_tokens`.
        embeds: embeddings [1, T, D] of those that the slot did not hold.
        known: how many it held.
        done: tokens that the slot holds by now.
    """

    line: Line
    named: list[int]
    embeds: Tensor
    known: int
    done: int

    @property
    def cached(self) -> tuple[int, int]:
        """Text and audio tokens that the slot held."""
        num_audio = sum(token < 0 for token in self.named[: self.known])
        return self.known - num_audio, num_audio


@dataclass
class _Voice:
    """One voice that speaks."""

    state: SpeechState
    resampler: StreamResampler
    has_begun: bool = False
    waiting: list[int] = field(default_factory=list)  # codes that are less than a portion


class ModelRunner:
    """Runs one loaded checkpoint; all of it belongs to one thread.

    Args:
        model: the checkpoint.
        hear: understands sound.
        token2wav: codes to sound; None: there are only texts.
        num_slots: lines at once.
        max_tokens: of a line with its prompt.
        max_read: tokens of a prompt that are read in one step.
        detector: finds speech; None: Silero.
    """

    def __init__(
        self,
        model: StepAudio,
        hear: Hear,
        token2wav: Token2Wav | None,
        *,
        num_slots: int,
        max_tokens: int,
        max_read: int = 512,
        detector: VoiceActivityDetector[Any] | None = None,
    ) -> None:
        self._generator = model.generator
        self._vocab = model.tokenizer.vocab
        self._default_stops = frozenset(model.config.text_config.stop_ids)
        self._hear = hear
        self._token2wav = token2wav
        self._detector = detector or silero_detector()
        self._max_tokens = max_tokens
        self._max_read = max_read
        self._num_slots = num_slots
        self._cache = self._generator.new_cache(num_slots, max_tokens)
        self._memory = SlotMemory(self._cache)
        self._sampling = self._generator.new_sampling(num_slots)
        self._tokens = torch.zeros(num_slots, dtype=torch.long, device=self._generator.device)
        self._readings: dict[int, _Reading] = {}
        self._held: dict[int, _Held] = {}
        self._voices: dict[int, _Voice] = {}

    @property
    def num_slots(self) -> int:
        """See `Runner`."""
        return self._num_slots

    @property
    def portions(self) -> tuple[int, ...]:
        """See `Runner`: chunks, the first with what its last token looks ahead."""
        if self._token2wav is None:
            return (1,)
        config = self._token2wav.flow.config
        lookahead, streaming = config.encoder.pre_lookahead_len, config.streaming
        if self._token2wav.mode == "reference":
            return streaming.chunk_tokens + lookahead, streaming.chunk_tokens
        first, *others = streaming.schedule.early
        return first + lookahead, *others, streaming.chunk_tokens

    # ---- hearing -----------------------------------------------------------------------------

    def init_vad(self) -> Any:
        """See `Runner`."""
        return self._detector.init_state()

    def speech_probabilities(self, frames: Samples, state: Any) -> tuple[list[float], Any]:
        """See `Runner`."""
        found, state = self._detector.speech_probabilities(torch.from_numpy(frames), state)
        return found.tolist(), state

    def hear(self, samples: Samples) -> Iterator[Heard]:
        """See `Runner`."""
        return self._hear(torch.from_numpy(np.ascontiguousarray(samples)))

    # ---- lines -------------------------------------------------------------------------------

    @torch.inference_mode()
    def begin(self, slot: int, line: Line) -> Token | None:
        """See `Runner`."""
        reading = self._readings.get(slot)
        if reading is None or reading.line is not line:
            reading = self._readings[slot] = self._open(slot, line)
        prompt: GenerationPrompt = line.prompt
        stop = min(reading.done + self._max_read, len(reading.named))
        part = reading.embeds[:, reading.done - reading.known : stop - reading.known]
        logits = self._generator.read(part, [part.shape[1]], [slot], self._cache, prompt.adapter)
        self._memory.add(slot, reading.named[reading.done : stop])
        reading.done = stop
        if stop < len(reading.named):
            return None
        del self._readings[slot]
        if line.params is None:
            return Token(prompt.ids[-1], finish="stop")
        (token,) = self._choose(logits, [self._hold(slot, line)])
        return replace(token, cached=reading.cached)

    def _open(self, slot: int, line: Line) -> _Reading:
        """Roll the slot back to what it shares with the prompt, and embed the rest.

        Raises:
            CapacityError: the prompt does not fit.
        """
        prompt: GenerationPrompt = line.prompt
        if len(prompt.ids) >= self._max_tokens:
            raise CapacityError(
                f"the conversation has {len(prompt.ids)} tokens, which do not fit into the "
                f"context of {self._max_tokens}: shorten it"
            )
        patch = self._vocab.audio_patch
        named = named_tokens(prompt.ids, line.sounds, patch)
        known = self._memory.keep(slot, named, prompt.adapter)
        num_sounds = sum(token == self._vocab.audio_start for token in prompt.ids[:known])
        rest = GenerationPrompt(prompt.ids[known:], prompt.audio[num_sounds:])
        return _Reading(line, named, self._generator.embed([rest]), known, known)

    def _hold(self, slot: int, line: Line) -> int:
        prompt: GenerationPrompt = line.prompt
        params: SamplingParams = line.params
        stops = self._default_stops if params.stop_ids is None else frozenset(params.stop_ids)
        budget = min(params.max_new_tokens, self._max_tokens - len(prompt.ids))
        self._held[slot] = _Held(params, prompt.adapter, stops, budget)
        self._sampling.assign(slot, params, prompt.ids)
        return slot

    @torch.inference_mode()
    def decode(self, slots: Sequence[int]) -> list[Token]:
        """See `Runner`."""
        adapters = [self._held[slot].adapter for slot in slots]
        tokens = self._tokens[torch.tensor(list(slots), device=self._tokens.device)]
        logits = self._generator.step(tokens, slots, self._cache, adapters)
        for slot in slots:
            self._memory.add(slot, self._held[slot].ids[-1:])
        return self._choose(logits, slots)

    def free(self, slot: int) -> None:
        """See `Runner`."""
        self._readings.pop(slot, None)
        self._held.pop(slot, None)

    def _choose(self, logits: Tensor, slots: Sequence[int]) -> list[Token]:
        held = [self._held[slot] for slot in slots]
        allowed = [
            None if one.params.constraint is None else one.params.constraint.allowed(one.ids)
            for one in held
        ]
        ids, _ = self._sampling.choose(logits, slots, allowed)
        self._tokens[torch.tensor(list(slots), device=self._tokens.device)] = ids
        return [self._note(one, token) for one, token in zip(held, ids.tolist(), strict=True)]

    def _note(self, held: _Held, token_id: int) -> Token:
        if token_id in held.stops:
            return Token(token_id, finish="stop")
        held.ids.append(token_id)
        codes = self._vocab.split_ids([token_id])[1]
        finish: Finish | None = "length" if len(held.ids) >= held.budget else None
        return Token(token_id, codes[0] if codes else None, finish)

    # ---- voices ------------------------------------------------------------------------------

    def open_voice(self, key: int, voice: SpeechVoice, seed: int) -> None:
        """See `Runner`."""
        assert self._token2wav is not None, "a checkpoint without voices was asked to speak"
        resampler = StreamResampler(self._token2wav.sample_rate, OUTPUT_RATE)
        self._voices[key] = _Voice(self._token2wav.init_state(voice, seed=seed), resampler)

    def speak(self, codes: Mapping[int, Sequence[int]], last: frozenset[int]) -> dict[int, Samples]:
        """See `Runner`."""
        assert self._token2wav is not None
        sound = {key: np.zeros(0, np.float32) for key in codes}
        rest = {key: [*self._voices[key].waiting, *part] for key, part in codes.items()}
        if self._token2wav.mode == "reference":
            # How the public vocoder sounds depends on the portions that it gets: they must not
            # depend on who else speaks.
            while portions := {
                k: c[: self._portion(k)] for k, c in rest.items() if self._is_due(k, c)
            }:
                self._speak(portions, frozenset(), sound)
                rest = {key: part[len(portions.get(key, ())) :] for key, part in rest.items()}
            for key in rest.keys() - last:
                self._voices[key].waiting = rest.pop(key)
        self._speak(rest, last, sound)
        for key in last:
            self.close_voice(key)
        return sound

    def _portion(self, key: int) -> int:
        return self.portions[int(self._voices[key].has_begun)]

    def _is_due(self, key: int, codes: Sequence[int]) -> bool:
        return len(codes) >= self._portion(key)

    def _speak(
        self,
        codes: Mapping[int, Sequence[int]],
        last: frozenset[int],
        sound: dict[int, Samples],
    ) -> None:
        """One pass; what the voices say is added to `sound`."""
        assert self._token2wav is not None
        # A voice that ends without a code has nothing to say.
        keys = [key for key in codes if codes[key] or self._voices[key].has_begun]
        voices = [self._voices[key] for key in keys]
        wavs, states = self._token2wav.step(
            [codes[key] for key in keys],
            [voice.state for voice in voices],
            [key in last for key in keys],
        )
        for key, voice, wav, state in zip(keys, voices, wavs, states, strict=True):
            voice.state, voice.has_begun = state, True
            pieces = [sound[key], voice.resampler.push(wav.numpy())]
            if key in last:
                pieces.append(voice.resampler.flush())
            sound[key] = np.concatenate(pieces)

    def close_voice(self, key: int) -> None:
        """See `Runner`."""
        self._voices.pop(key, None)
