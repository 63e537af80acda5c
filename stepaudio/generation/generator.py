"""Batched generation over the slot cache.

`prefill` and `step` are the two passes that everything uses: `generate` for ragged batches,
`stream` for one completion, and a serving engine over its own slots. All state lives in a
`SlotKVCache` that the caller passes; a `Generator` itself only holds weights.

Shape legend: B rows of a pass, T tokens, D decoder width, S latents, V rows of the head.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stepaudio.generation.completion import (
    Completion,
    GenerationPrompt,
    TokenEvent,
    check_fits,
)
from stepaudio.generation.sampling import LogitsProcessor, SamplingBatch, SamplingParams
from stepaudio.generation.stats import GenerationStats
from stepaudio.models.encoder import Latents
from stepaudio.models.fused import FusedDecoder
from stepaudio.models.kv_cache import SlotKVCache, SlotStep
from stepaudio.models.step_audio import StepAudio2ForCausalLM

# Larger weights are not copied for fused steps unless asked: memory then matters more than calls.
_MAX_FUSED_BYTES = 2 << 30
_GREEDY = SamplingParams()

__all__ = ["Completion", "Decoder", "GenerationPrompt", "Generator", "ModuleDecoder", "TokenEvent"]


class CTCPosteriors(NamedTuple):
    """Log-probabilities of one clip's CTC frames, the blank at index 0.

    Attributes:
        characters: [T, 1 + characters].
        phones: [T, 1 + phones].
    """

    characters: Tensor
    phones: Tensor


class Decoder(Protocol):
    """Decoder layers and head, as the modules themselves or as a fused copy of them."""

    def __call__(self, embeds: Tensor, step: SlotStep, last: Tensor | None = None) -> Tensor:
        """Logits [B, V] behind token `last` [B] (None: the first) of embeddings [B, T, D]."""


class ModuleDecoder:
    """The model's own modules as a `Decoder`: no copy of the weights."""

    def __init__(self, model: StepAudio2ForCausalLM, rows: int | None) -> None:
        self._model = model
        self._rows = rows

    def __call__(self, embeds: Tensor, step: SlotStep, last: Tensor | None = None) -> Tensor:
        """See `Decoder`."""
        hidden = self._model.model(embeds, step.plan, step)
        rows = torch.arange(len(hidden), device=hidden.device)
        return self._model.project(hidden[rows, 0 if last is None else last], self._rows)


class Generator:
    """Generates completions with one model."""

    def __init__(
        self,
        model: StepAudio2ForCausalLM,
        *,
        text_only: bool = False,
        fuse: bool | None = None,
        processors: Sequence[LogitsProcessor] = (),
        adapters: Mapping[int, Decoder] | None = None,
    ) -> None:
        """Prepare the model for inference.

        Args:
            model: its weights must not change while the generator is used; build a new generator
                after training or merging.
            text_only: compute only the text rows of the head.
            fuse: decode with a `FusedDecoder`; None: on CPU, up to 2 GiB of weights.
            processors: change logits before a token is chosen.
            adapters: further decoders by adapter id, such as a `FusedDecoder` of the same model
                with a merged LoRA; id 0 is the model itself.
        """
        self.model = model
        self.rows = model.config.audio_start_token_id if text_only else None
        self.vocab_size = self.rows or model.config.vocab_size
        self._processors = processors
        weight = model.lm_head.weight
        if fuse is None:
            size = sum(p.numel() * p.element_size() for p in model.model.parameters())
            fuse = weight.device.type == "cpu" and size <= _MAX_FUSED_BYTES
        decoder: Decoder = ModuleDecoder(model, self.rows)
        if fuse:
            decoder = FusedDecoder(model.model, weight[: self.rows])
        self._decoders: dict[int, Decoder] = {**(adapters or {}), 0: decoder}

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device: torch.device = self.model.lm_head.weight.device
        return device

    def new_cache(self, num_slots: int, max_len: int) -> SlotKVCache:
        """Create an empty slot cache that fits the model."""
        weight = self.model.lm_head.weight
        return SlotKVCache(
            self.model.config.text_config,
            num_slots,
            max_len,
            dtype=weight.dtype,
            device=weight.device,
        )

    @torch.inference_mode()
    def encode(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Latents [S, D] of clips given as log-mel [n_mels, frames]; each is encoded once."""
        return self._encode(features)[1]

    @torch.inference_mode()
    def encode_with_ctc(
        self, features: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[CTCPosteriors]]:
        """Latents as of `encode`, and what the CTC heads make of every clip.

        Raises:
            ValueError: the model lacks one of the two CTC heads.
        """
        heads = self.model.config.audio_encoder_config
        if not heads.ctc_tokens or not heads.ctc_phones:
            raise ValueError("this model lacks a CTC head for characters or phones")
        encoded, latents = self._encode(features)
        characters, phones = self.model.ctc_head(encoded), self.model.phone_head(encoded)
        rows = zip(characters.values, phones.values, characters.lengths.tolist(), strict=True)
        return latents, [CTCPosteriors(c[:length], p[:length]) for c, p, length in rows]

    def _encode(self, features: Sequence[Tensor]) -> tuple[Latents, list[Tensor]]:
        geometry = self.model.config.audio_encoder_config.geometry
        lens = [geometry.valid_mel_frames(f.shape[1]) for f in features]
        padded = pad_sequence([f.T for f in features], batch_first=True).transpose(1, 2)
        lens_tensor = torch.tensor(lens, device=self.device)
        encoded, latents = self.model.encode_audio(padded.to(self.device), lens_tensor)
        sizes = [geometry.tokens(count) for count in lens]
        return encoded, [v[:size] for v, size in zip(latents.values, sizes, strict=True)]

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[GenerationPrompt], slots: Sequence[int], cache: SlotKVCache
    ) -> Tensor:
        """Put prompts into slots of the cache, behind what these hold already.

        Args:
            prompts: one for every slot; ragged.
            slots: slots to fill.
            cache: cache that is changed.

        Returns:
            Logits [B, V] of the token behind every prompt.

        Raises:
            CapacityError: a prompt does not fit.
            ValueError: the audio does not fit a prompt's tokens.
        """
        rows = [torch.tensor(list(p.ids)) for p in prompts]
        pad = self.model.config.pad_token_id
        ids = pad_sequence(rows, batch_first=True, padding_value=pad).to(self.device)
        clips = [clip for p in prompts for clip in p.audio]
        audio = None
        if clips:
            sizes = torch.tensor([len(clip) for clip in clips], device=self.device)
            audio = Latents(pad_sequence(clips, batch_first=True), sizes)
        embeds = self.model.embed(ids, audio)
        logits = embeds.new_empty(len(prompts), self.vocab_size)
        for adapter, members in _members_of([p.adapter for p in prompts]).items():
            lens = [len(prompts[i].ids) for i in members]
            step = cache.begin([slots[i] for i in members], max(lens), lens)
            last = torch.tensor(lens, device=self.device) - 1
            logits[members] = self._decoder(adapter)(embeds[members, : max(lens)], step, last)
        return logits

    @torch.inference_mode()
    def step(
        self,
        tokens: Tensor,
        slots: Sequence[int],
        cache: SlotKVCache,
        adapters: Sequence[int] | None = None,
    ) -> Tensor:
        """Append one token to each of some slots.

        Args:
            tokens: [B] ids.
            slots: slot of every token; consecutive ones are read without a copy.
            cache: cache that is changed.
            adapters: adapter id of every row; None: 0.

        Returns:
            Logits [B, V] of the tokens that follow.

        Raises:
            CapacityError: a slot is full.
        """
        embeds = self.model.model.embed_tokens(tokens)[:, None]
        groups = _members_of(adapters or [0] * len(slots))
        if len(groups) == 1:
            return self._decoder(next(iter(groups)))(embeds, cache.begin(slots, 1))
        logits = embeds.new_empty(len(slots), self.vocab_size)
        for adapter, members in groups.items():
            step = cache.begin([slots[i] for i in members], 1)
            logits[members] = self._decoder(adapter)(embeds[members], step)
        return logits

    @torch.inference_mode()
    def score(self, prompt: GenerationPrompt, continuations: Sequence[Sequence[int]]) -> Tensor:
        """Log-probability [N] that each continuation, and then the end, follows a prompt.

        The prompt is read once. Adapters are not taken into account.

        Args:
            prompt: what is continued.
            continuations: token ids of each.

        Raises:
            CapacityError: the prompt or a continuation exceeds the model's context.
        """
        num_rows = len(continuations)
        lens = [len(ids) for ids in continuations]
        longest = max(lens)
        cache = self.new_cache(num_rows, len(prompt.ids) + longest)
        first = self.prefill([prompt], [0], cache).expand(num_rows, 1, -1)
        for slot in range(1, num_rows):
            cache.copy_slot(0, slot)
        rows = [torch.tensor(list(ids), dtype=torch.long) for ids in continuations]
        ids = pad_sequence(rows, batch_first=True).to(self.device)
        logits = first
        if longest:
            step = cache.begin(range(num_rows), longest, lens)
            hidden = self.model.model(self.model.model.embed_tokens(ids), step.plan, step)
            logits = torch.cat([first, self.model.project(hidden, self.rows)], dim=1)
        log_probs = logits.float().log_softmax(-1)
        sizes = torch.tensor(lens, device=self.device)
        chosen = log_probs[:, :longest].gather(-1, ids[..., None]).squeeze(-1)
        chosen = chosen.masked_fill(torch.arange(longest, device=self.device) >= sizes[:, None], 0)
        stops = torch.tensor(list(self.model.config.text_config.stop_ids), device=self.device)
        ends = log_probs[torch.arange(num_rows, device=self.device), sizes][:, stops]
        return chosen.sum(1) + ends.logsumexp(-1)

    def _decoder(self, adapter: int) -> Decoder:
        if adapter not in self._decoders:
            raise ValueError(f"no adapter {adapter}; there are {sorted(self._decoders)}")
        return self._decoders[adapter]

    def generate(
        self,
        prompts: Sequence[GenerationPrompt],
        params: SamplingParams | Sequence[SamplingParams] = _GREEDY,
        *,
        num_slots: int = 8,
    ) -> list[Completion]:
        """Complete prompts, as many at a time as there are slots.

        Args:
            prompts: what to complete; ragged.
            params: how, for all or for each.
            num_slots: prompts decoded together. The ids of a greedy completion do not depend on
                it, nor do those of a sampled one that has a seed.

        Raises:
            CapacityError: a prompt exceeds the model's context.
        """
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if not prompts:
            return []
        run = _Run(self, prompts, each, min(num_slots, len(prompts)))
        deque(run.events(), maxlen=0)
        return run.completions

    def stream(
        self, prompt: GenerationPrompt, params: SamplingParams = _GREEDY
    ) -> Iterator[TokenEvent]:
        """Complete one prompt and yield every token as soon as it is there."""
        return _Run(self, [prompt], [params], 1).events()

    def generate_until(
        self,
        prompt: GenerationPrompt,
        params: SamplingParams,
        is_last: Callable[[int], bool],
    ) -> Completion:
        """Complete one prompt until `is_last` says so about a token, which is then kept.

        Raises:
            CapacityError: the prompt exceeds the model's context.
        """
        run = _Run(self, [prompt], [params], 1)
        (completion,) = run.completions
        for event in run.events():
            if event.finish_reason is None and is_last(event.token_id):
                completion.finish_reason = "stop"
                break
        return completion

    def new_sampling(self, num_slots: int) -> SamplingBatch:
        """Create the sampling state of so many slots."""
        return SamplingBatch(
            num_slots,
            self.vocab_size,
            self.device,
            self._processors,
            first_code_id=self.model.config.first_code_token_id,
        )


class _Run:
    """One call of `generate`: which prompt sits in which slot.

    The live prompts sit in the first slots, so that a step reads the cache without a copy.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Sequence[GenerationPrompt],
        params: Sequence[SamplingParams],
        num_slots: int,
    ) -> None:
        self._generator = generator
        self._prompts = prompts
        self._params = params
        self._num_slots = num_slots
        config = generator.model.config
        context = config.max_position_embeddings
        geometry = config.audio_encoder_config.geometry
        for prompt in prompts:
            num_audio = sum(len(clip) for clip in prompt.audio)
            check_fits(len(prompt.ids), num_audio, context, geometry)
        self._budgets = [
            min(p.max_new_tokens, context - len(prompt.ids))
            for p, prompt in zip(params, prompts, strict=True)
        ]
        default = config.text_config.stop_ids
        self._stops = [frozenset(default if p.stop_ids is None else p.stop_ids) for p in params]
        longest = max(len(p.ids) + n for p, n in zip(prompts, self._budgets, strict=True))
        self._cache = generator.new_cache(num_slots, longest)
        self._sampling = generator.new_sampling(num_slots)
        self._tokens = torch.zeros(num_slots, dtype=torch.long, device=generator.device)
        self._queue = deque(range(len(prompts)))
        self._live: list[int] = []
        self.completions = [
            Completion(stats=GenerationStats(audio_s=p.audio_s, prompt_tokens=len(p.ids)))
            for p in prompts
        ]

    def events(self) -> Iterator[TokenEvent]:
        """Run until every prompt is complete."""
        while self._queue or self._live:
            if self._queue and len(self._live) < self._num_slots:
                yield from self._admit()
            if self._live:
                yield from self._advance()

    @torch.inference_mode()
    def _admit(self) -> list[TokenEvent]:
        start = time.perf_counter()
        first = len(self._live)
        slots = range(first, min(self._num_slots, first + len(self._queue)))
        for slot in slots:
            index = self._queue.popleft()
            self._live.append(index)
            self._sampling.assign(slot, self._params[index], self._prompts[index].ids)
        members = [self._prompts[index] for index in self._live[first:]]
        logits = self._generator.prefill(members, slots, self._cache)
        chosen = self._choose(logits, slots)
        for slot in slots:
            stats = self.completions[self._live[slot]].stats
            stats.prefill_s += (time.perf_counter() - start) / len(slots)
        return self._record(slots, *chosen)

    @torch.inference_mode()
    def _advance(self) -> list[TokenEvent]:
        start = time.perf_counter()
        slots = range(len(self._live))
        adapters = [self._prompts[index].adapter for index in self._live]
        tokens = self._tokens[: len(slots)]
        logits = self._generator.step(tokens, slots, self._cache, adapters)
        chosen = self._choose(logits, slots)
        for index in self._live:
            stats = self.completions[index].stats
            stats.passes += 1
            stats.decode_s += (time.perf_counter() - start) / len(slots)
        return self._record(slots, *chosen)

    def _choose(self, logits: Tensor, slots: range) -> tuple[list[int], list[float]]:
        ids, log_probs = self._sampling.choose(logits, slots)
        self._tokens[slots.start : slots.stop] = ids
        return ids.tolist(), log_probs.tolist()

    def _record(self, slots: range, ids: list[int], log_probs: list[float]) -> list[TokenEvent]:
        """Note the new tokens and free the slots of finished prompts."""
        events, finished = [], []
        for slot, token, log_prob in zip(slots, ids, log_probs, strict=True):
            index = self._live[slot]
            completion = self.completions[index]
            completion.stats.tokens += 1
            completion.log_probs.append(log_prob)
            if token in self._stops[index]:
                completion.finish_reason = "stop"
            else:
                completion.ids.append(token)
                if len(completion.ids) == self._budgets[index]:
                    completion.finish_reason = "length"
            if completion.finish_reason is not None:
                finished.append(slot)
            events.append(TokenEvent(index, token, log_prob, completion.finish_reason))
        for slot in reversed(finished):
            self._free(slot)
        return events

    def _free(self, slot: int) -> None:
        last = len(self._live) - 1
        if slot != last:
            self._cache.copy_slot(last, slot)
            self._sampling.move(last, slot)
            self._tokens[slot] = self._tokens[last]
            self._live[slot] = self._live[last]
        self._cache.truncate(last, 0)
        self._live.pop()


def _members_of(adapters: Sequence[int]) -> dict[int, list[int]]:
    """Rows of every adapter."""
    members: dict[int, list[int]] = {}
    for row, adapter in enumerate(adapters):
        members.setdefault(adapter, []).append(row)
    return members
