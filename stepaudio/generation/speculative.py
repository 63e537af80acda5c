"""Which drafted tokens are kept: exact for greedy decoding, exact in distribution for sampling.

A draft d of probability q(d) is accepted with probability min(1, p(d) / q(d)), where p is the
decoder's distribution; at the first rejection the token is drawn from what p has more than q
(Leviathan et al., "Fast inference from transformers via speculative decoding", 2023, theorem 3.5).
Every token then has the distribution of sampling one by one. Greedy rows are distributions with
one token, for which the rule is agreement.

Shape legend: N slots, B rows of a pass, J drafts of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepaudio.generation.sampling import SamplingParams, distribution, penalise_repetition


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """Ids [B] drawn from unnormalised probabilities [B, V] by random numbers [B] in [0, 1)."""
    cumulative = probs.cumsum(-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    # Rounding may place the number behind the last token that has a probability.
    ranks = torch.arange(1, probs.shape[1] + 1, device=probs.device)
    last = ((probs > 0) * ranks).argmax(-1)
    return chosen.minimum(last)


def accept(
    target: Tensor, proposal: Tensor, drafts: Tensor, counts: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Accept a prefix of the drafts of every row, and draw the token behind it.

    Args:
        target: [B, J + 1, V] distributions of the decoder at each draft and behind the last one.
        proposal: [B, J, V] distributions that the drafts were drawn from.
        drafts: [B, J] ids.
        counts: [B] how many drafts of a row are there.
        uniform: [B, J + 1] random numbers in [0, 1), the last of them for the token behind.

    Returns:
        Number [B] of accepted drafts, and the token [B] behind them.
    """
    num_drafts = drafts.shape[1]
    rows = torch.arange(len(drafts), device=drafts.device)
    p = target[:, :num_drafts].gather(-1, drafts[..., None])[..., 0]
    q = proposal.gather(-1, drafts[..., None])[..., 0]
    is_there = torch.arange(num_drafts, device=drafts.device) < counts[:, None]
    # u < p / q without the division: q is not 0 where a draft was drawn.
    accepted = is_there & (uniform[:, :num_drafts] * q < p)
    num_accepted = accepted.long().cumprod(-1).sum(-1)
    behind = target[rows, num_accepted]
    if num_drafts:
        drawn_from = proposal[rows, num_accepted.clamp(max=num_drafts - 1)]
        rest = (behind - drawn_from).clamp(min=0)
        # Where p and q agree up to rounding nothing is left, and nothing was to be rejected.
        is_rejected = (num_accepted < counts) & (rest.sum(-1) > 0)
        behind = torch.where(is_rejected[:, None], rest, behind)
    return num_accepted, draw(behind, uniform[:, -1])


class SpeculativeSampler:
    """Sampling parameters, random numbers and seen tokens of all slots."""

    def __init__(
        self,
        num_slots: int,
        vocab_size: int,
        device: torch.device,
        *,
        num_drafts: int,
        first_code_id: int,
    ) -> None:
        """Prepare the slots.

        Args:
            num_slots: sequences sampled together.
            vocab_size: V.
            device: where the logits are.
            num_drafts: most drafts of a pass.
            first_code_id: audio tokens are those from this id on.
        """
        self._params = [SamplingParams()] * num_slots
        self._generators: list[torch.Generator | None] = [None] * num_slots
        self._vocab_size = vocab_size
        self._device = device
        self._num_drafts = num_drafts
        self._first_code_id = first_code_id
        self._seen: Tensor | None = None

    def assign(self, slot: int, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        """Begin a completion in a slot."""
        self._params[slot] = params
        seed = params.seed
        self._generators[slot] = None if seed is None else torch.Generator().manual_seed(seed)
        if params.penalties != (1, 1):
            if self._seen is None:
                shape = (len(self._params), self._vocab_size)
                self._seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
            known = [i for i in prompt_ids if i < self._vocab_size]
            self._seen[slot] = False
            self._seen[slot, torch.tensor(known, dtype=torch.long, device=self._device)] = True

    def move(self, source: int, target: int) -> None:
        """Make slot `target` continue what slot `source` was sampling."""
        self._params[target] = self._params[source]
        self._generators[target] = self._generators[source]
        if self._seen is not None:
            self._seen[target] = self._seen[source]

    def is_greedy(self, slots: Sequence[int]) -> bool:
        """Whether all these slots take the most probable token and nothing else."""
        return all(self._params[slot].is_plain_greedy for slot in slots)

    def propose(self, logits: Tensor, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw a draft of every row in `slots` from logits [B, V]: ids [B], distribution [B, V].

        Repetition penalties are left to the decoder: any proposal is right.
        """
        proposal = self._distribution(logits, slots)
        return draw(proposal, self._numbers(slots, 1)[:, 0]), proposal

    def verify(
        self,
        logits: Tensor,
        proposal: Tensor,
        drafts: Tensor,
        counts: Sequence[int],
        slots: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Accept drafts of the rows in `slots`; arguments as of `accept`, but logits as target."""
        num_drafts = drafts.shape[1]
        rows = torch.tensor(list(slots), device=self._device)
        seen = None if self._seen is None else self._seen[rows]
        targets = []
        for index in range(num_drafts + 1):
            at = logits[:, index]
            if seen is not None:
                if index:
                    seen = seen.scatter(1, drafts[:, index - 1 : index], True)
                penalty = torch.tensor(
                    [self._params[slot].penalties for slot in slots], device=self._device
                )
                at = penalise_repetition(at, seen, penalty, self._first_code_id)
            targets.append(self._distribution(at, slots))
        sizes = torch.tensor(list(counts), device=self._device)
        # As many numbers in every pass, so that a row does not depend on the others' drafts.
        numbers = self._numbers(slots, self._num_drafts + 1)
        uniform = torch.cat([numbers[:, :num_drafts], numbers[:, -1:]], dim=1)
        accepted, ids = accept(torch.stack(targets, 1), proposal, drafts, sizes, uniform)
        if self._seen is not None:
            kept = torch.arange(num_drafts, device=self._device) < accepted[:, None]
            # A rejected draft marks again what is marked anyway: the token behind the drafts.
            self._seen[rows] = (
                self._seen[rows]
                .scatter(1, torch.where(kept, drafts, ids[:, None]), True)
                .scatter(1, ids[:, None], True)
            )
        return accepted, ids

    def _distribution(self, logits: Tensor, slots: Sequence[int]) -> Tensor:
        params = [self._params[slot] for slot in slots]
        temperature, top_p = (
            torch.tensor([getattr(p, name) for p in params], device=self._device)
            for name in ("temperature", "top_p")
        )
        top_k = torch.tensor([p.top_k for p in params], device=self._device)
        return distribution(logits, temperature, top_k, top_p)

    def _numbers(self, slots: Sequence[int], count: int) -> Tensor:
        """Random numbers [B, count]; a slot's own where it has a seed."""
        drawn = [torch.rand(count, generator=self._generators[slot]) for slot in slots]
        return torch.stack(drawn).to(self._device)
