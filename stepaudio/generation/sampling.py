"""How the next token is chosen: parameters, logits processors and a sampler without host sync.

Shape legend: N slots, B rows of a pass, V vocabulary (or the rows of the head that are used).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stepaudio.generation.bias import TokenBias
from stepaudio.generation.constraint import TokenConstraint
from stepaudio.generation.repetition import RepetitionMemory, widened


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one completion is sampled.

    Attributes:
        temperature: 0 takes the most probable token.
        top_p: sample from the smallest set of tokens that has this probability.
        top_k: sample from so many most probable tokens; 0: from all.
        repetition_penalty: divides the logits of tokens that prompt or output contain already.
        audio_repetition_penalty: the same for audio tokens, which recur more often than text;
            None: as for text, which is what the public code does.
        repetition_window: an audio token that makes up more than `max_repetition` of so many
            latest tokens is drawn again, without top_p and top_k; 0: never. This is the repetition
            aware sampling of VALL-E 2 (arXiv 2406.05370).
        max_repetition: share of the window.
        constraint: which tokens may come next; None: all.
        bias: what is added to the logits before anything else; None: nothing.
        max_new_tokens: longest completion, its end token included.
        stop_ids: tokens that end the completion; None: the model's end tokens.
        seed: makes sampling reproducible whatever else is in the batch; None: torch's generator.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    audio_repetition_penalty: float | None = None
    repetition_window: int = 0
    max_repetition: float = 0.1
    constraint: TokenConstraint | None = None
    bias: TokenBias | None = None
    max_new_tokens: int = 256
    stop_ids: tuple[int, ...] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if self.repetition_window < 0:
            raise ValueError(
                f"repetition_window must not be negative, got {self.repetition_window}"
            )
        if not 0 <= self.max_repetition <= 1:
            raise ValueError(f"max_repetition must lie in [0, 1], got {self.max_repetition}")
        for name in ("repetition_penalty", "audio_repetition_penalty"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    @property
    def penalties(self) -> tuple[float, float]:
        """Repetition penalties of text and of audio tokens."""
        audio = self.audio_repetition_penalty
        return self.repetition_penalty, self.repetition_penalty if audio is None else audio

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the choice is the most probable token and nothing else."""
        return self.temperature == 0 and self.penalties == (1, 1)

    @property
    def redraws(self) -> bool:
        """Whether repeated audio tokens are drawn again."""
        return self.temperature > 0 and self.repetition_window > 0


class LogitsProcessor(Protocol):
    """Changes logits [B, V] before a token is chosen, such as a bias towards hotwords."""

    def __call__(self, logits: Tensor, slots: Tensor) -> Tensor:
        """Return the changed logits of the rows that sit in `slots` [B]."""


def penalise_repetition(
    logits: Tensor, seen: Tensor, penalty: Tensor, first_code_id: int
) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (arXiv 1909.05858).

    Args:
        logits: [B, V].
        seen: [B, V] bool, tokens of prompt and output.
        penalty: [B, 2], of text and of audio tokens.
        first_code_id: audio tokens are those from this id on.
    """
    is_audio = torch.arange(logits.shape[1], device=logits.device) >= first_code_id
    factor = torch.where(is_audio, penalty[:, 1:], penalty[:, :1])
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def keep_allowed(logits: Tensor, allowed: Sequence[Sequence[range] | None]) -> Tensor:
    """Give all tokens but the allowed ones no probability.

    Args:
        logits: [B, V].
        allowed: ids that each row may take; None: all.
    """
    if all(ranges is None for ranges in allowed):
        return logits
    kept = torch.full_like(logits, float("-inf"))
    for row, ranges in enumerate(allowed):
        for ids in (range(logits.shape[1]),) if ranges is None else ranges:
            kept[row, ids.start : ids.stop] = logits[row, ids.start : ids.stop]
    return kept


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor
) -> Tensor:
    """Draw a token of every row by inverting the cumulative distribution; no host sync.

    Args:
        logits: [B, V].
        temperature: [B]; rows with 0 take the most probable token.
        top_k: [B]; 0: all tokens.
        top_p: [B].
        uniform: [B] random numbers in [0, 1).

    Returns:
        Ids [B].
    """
    ids, probs = _ordered_probs(logits, temperature, top_k, top_p)
    cumulative = probs.cumsum(-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
    # Rounding may place the number behind the last kept token.
    chosen = chosen.minimum((probs > 0).sum(-1, keepdim=True) - 1)
    drawn = ids.gather(1, chosen)[:, 0]
    return torch.where(temperature == 0, logits.argmax(-1), drawn)


def distribution(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities [B, V] with which `sample` draws each token; arguments as there."""
    ids, probs = _ordered_probs(logits, temperature, top_k, top_p)
    drawn = torch.zeros_like(probs).scatter_(1, ids, probs / probs.sum(-1, keepdim=True))
    greedy = torch.zeros_like(probs).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    return torch.where((temperature == 0)[:, None], greedy, drawn)


def _ordered_probs(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Ids by falling probability and what is kept of their probabilities, both [B, V]."""
    scaled = logits.float() / temperature.masked_fill(temperature == 0, 1.0)[:, None]
    # Stable, so that the choice between equals does not depend on how many others there are.
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    limit = torch.where(top_k > 0, top_k, logits.shape[1])[:, None]
    probs = ordered.masked_fill(rank >= limit, float("-inf")).softmax(-1)
    before = probs.cumsum(-1) - probs
    # A token is kept while the more probable ones have less than top_p together.
    return ids, probs.masked_fill(before >= top_p[:, None], 0.0)


def _span(allowed: Sequence[Sequence[range] | None], size: int) -> tuple[int, int]:
    """First id and end of the ids that any row may take."""
    kept = [ids for ranges in allowed for ids in (ranges or (range(size),))]
    return min(ids.start for ids in kept), max(ids.stop for ids in kept)


class SamplingBatch:
    """Sampling parameters and state of all slots, as tensors."""

    def __init__(
        self,
        num_slots: int,
        vocab_size: int,
        device: torch.device,
        processors: Sequence[LogitsProcessor] = (),
        *,
        first_code_id: int | None = None,
    ) -> None:
        """Prepare the slots.

        Args:
            num_slots: sequences sampled together.
            vocab_size: V.
            device: where the logits are.
            processors: applied to the logits in this order, before everything else.
            first_code_id: audio tokens are those from this id on; None: there are none.
        """
        self._processors = processors
        self._params = [SamplingParams()] * num_slots
        self._vocab_size = vocab_size
        self._device = device
        self._temperature = torch.zeros(num_slots, device=device)
        self._top_p = torch.ones(num_slots, device=device)
        self._top_k = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._first_code_id = vocab_size if first_code_id is None else first_code_id
        self._penalty = torch.ones(num_slots, 2, device=device)
        self._num_drawn = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._uniform = torch.zeros(num_slots, 0, device=device)
        self._repetition = RepetitionMemory(num_slots, self._first_code_id, device)
        self._seen: Tensor | None = None

    def assign(self, slot: int, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        """Begin a completion in a slot."""
        self._params[slot] = params
        self._temperature[slot] = params.temperature
        self._top_p[slot] = params.top_p
        self._top_k[slot] = params.top_k
        self._penalty[slot] = torch.tensor(params.penalties, device=self._device)
        self._num_drawn[slot] = 0
        self._repetition.assign(slot, params.repetition_window, params.max_repetition)
        if params.temperature > 0:
            self._draw_ahead(slot, params)
        if params.penalties != (1, 1):
            if self._seen is None:
                shape = (len(self._params), self._vocab_size)
                self._seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
            known = [i for i in prompt_ids if i < self._vocab_size]
            self._seen[slot] = False
            self._seen[slot, torch.tensor(known, dtype=torch.long, device=self._device)] = True

    def _draw_ahead(self, slot: int, params: SamplingParams) -> None:
        """Draw the random numbers of a whole completion, so that steps need no generator."""
        generator = None
        if params.seed is not None:
            generator = torch.Generator().manual_seed(params.seed)
        numbers = torch.rand(params.max_new_tokens, generator=generator)
        self._uniform = widened(self._uniform, params.max_new_tokens)
        self._uniform[slot, : params.max_new_tokens] = numbers.to(self._device)
        if params.redraws:
            again = torch.rand(params.max_new_tokens, generator=generator)
            self._repetition.draw_ahead(slot, again.to(self._device))

    def move(self, source: int, target: int) -> None:
        """Make slot `target` continue what slot `source` was sampling."""
        self._params[target] = self._params[source]
        state = [self._temperature, self._top_p, self._top_k, self._penalty, self._num_drawn]
        state += [self._uniform] + ([] if self._seen is None else [self._seen])
        for tensor in state:
            tensor[target] = tensor[source]
        self._repetition.move(source, target)

    def choose(
        self,
        logits: Tensor,
        slots: Sequence[int],
        allowed: Sequence[Sequence[range] | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Choose the next token of some slots.

        Args:
            logits: [B, V] of the rows in `slots`.
            slots: slot of every row.
            allowed: ids that every row may take, see `keep_allowed`; None: all.

        Returns:
            Ids [B] and their log-probabilities [B] among the allowed ones, under the unchanged
            logits.
        """
        allowed = [None] * len(slots) if allowed is None else allowed
        logits = keep_allowed(logits, allowed)
        plain = all(self._params[slot].is_plain_greedy for slot in slots)
        if plain and not self._processors:
            ids = logits.argmax(-1)
        else:
            rows = torch.tensor(slots, device=self._device)
            ids = self._choose_any(logits, rows, *_span(allowed, logits.shape[1]))
        log_probs = logits.gather(1, ids[:, None])[:, 0].float() - logits.float().logsumexp(-1)
        return ids, log_probs

    def _choose_any(self, logits: Tensor, rows: Tensor, first: int, stop: int) -> Tensor:
        for processor in self._processors:
            logits = processor(logits, rows)
        if self._seen is not None:
            logits = penalise_repetition(
                logits, self._seen[rows], self._penalty[rows], self._first_code_id
            )
        if self._uniform.shape[1]:
            drawn = self._num_drawn[rows].clamp(max=self._uniform.shape[1] - 1)
            uniform = self._uniform[rows, drawn]
        else:
            uniform = torch.zeros(len(rows), device=self._device)
        # Sorting takes longest, and in speech most steps allow the codes only.
        logits = logits[:, first:stop]
        temperature = self._temperature[rows]
        ids = first + sample(logits, temperature, self._top_k[rows], self._top_p[rows], uniform)
        if any(self._params[slot].redraws for slot in rows.tolist()):
            again = self._repetition.uniform(rows, self._num_drawn[rows])
            anything = torch.zeros_like(rows), torch.ones_like(temperature)
            fresh = first + sample(logits, temperature, *anything, again)
            ids = torch.where(self._repetition.is_repeated(ids, rows), fresh, ids)
            self._repetition.record(ids, rows)
        self._num_drawn[rows] += 1
        if self._seen is not None:
            self._seen[rows, ids] = True
        return ids
