"""One call of a generator: which prompt sits in which slot, and what its completion has become."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepaudio.generation.bias import TokenBias, add_bias
from stepaudio.generation.completion import Completion, GenerationPrompt, TokenEvent, check_fits
from stepaudio.generation.sampling import SamplingParams
from stepaudio.generation.stats import GenerationStats

if TYPE_CHECKING:
    from stepaudio.generation.generator import Generator


class Run:
    """Prompts on their way to completions.

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
        chosen = self._begin(slots)
        seconds = (time.perf_counter() - start) / len(slots)
        for slot in slots:
            self.completions[self._live[slot]].stats.prefill_s += seconds
        return self._record(slots, *chosen)

    def _begin(self, slots: range) -> tuple[list[int], list[float]]:
        """Read the prompts in some slots and choose the token behind each."""
        prompts = [self._prompts[self._live[slot]] for slot in slots]
        return self._choose(self._generator.prefill(prompts, slots, self._cache), slots)

    @torch.inference_mode()
    def _advance(self) -> list[TokenEvent]:
        start = time.perf_counter()
        slots = range(len(self._live))
        adapters = [self._prompts[index].adapter for index in self._live]
        tokens = self._tokens[: len(slots)]
        logits = self._generator.step(tokens, slots, self._cache, adapters)
        chosen = self._choose(logits, slots)
        seconds = (time.perf_counter() - start) / len(slots)
        for index in self._live:
            self.completions[index].stats.record_pass(0)
            self.completions[index].stats.decode_s += seconds
        return self._record(slots, *chosen)

    def _choose(self, logits: Tensor, slots: range) -> tuple[list[int], list[float]]:
        biased = add_bias(logits, [self._bias_behind(slot) for slot in slots])
        ids, log_probs = self._sampling.choose(biased, slots, self._allowed(slots))
        if biased is not logits:
            log_probs = logits.gather(1, ids[:, None])[:, 0].float() - logits.float().logsumexp(-1)
        self._tokens[slots.start : slots.stop] = ids
        return ids.tolist(), log_probs.tolist()

    def _allowed(self, slots: range) -> list[Sequence[range] | None]:
        """Tokens that may come next in some slots; None: all."""
        indices = [self._live[slot] for slot in slots]
        return [
            None if constraint is None else constraint.allowed(self.completions[index].ids)
            for index in indices
            for constraint in (self._params[index].constraint,)
        ]

    def _bias_behind(
        self, slot: int, ahead: Sequence[int] = ()
    ) -> tuple[TokenBias | None, Sequence[int]]:
        """Bias of a slot's completion, and the tokens that it depends on."""
        index = self._live[slot]
        bias = self._params[index].bias
        return bias, () if bias is None else (*self.completions[index].ids, *ahead)

    def _record(self, slots: range, ids: list[int], log_probs: list[float]) -> list[TokenEvent]:
        """Note one new token of each slot and free the slots of finished prompts."""
        new = zip(slots, ids, log_probs, strict=True)
        events = [self._note(slot, token, log_prob) for slot, token, log_prob in new]
        self._free_finished()
        return events

    def _note(self, slot: int, token: int, log_prob: float) -> TokenEvent:
        """Add a token to the completion in a slot."""
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
        return TokenEvent(index, token, log_prob, completion.finish_reason)

    def _free_finished(self) -> None:
        for slot in reversed(range(len(self._live))):
            if self.completions[self._live[slot]].finish_reason is not None:
                self._free(slot)

    def _free(self, slot: int) -> None:
        last = len(self._live) - 1
        if slot != last:
            self._cache.copy_slot(last, slot)
            self._sampling.move(last, slot)
            self._tokens[slot] = self._tokens[last]
            self._live[slot] = self._live[last]
        self._cache.truncate(last, 0)
        self._live.pop()
