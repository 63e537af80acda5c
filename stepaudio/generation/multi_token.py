"""Multi-token decoding: drafts of the prediction blocks, verified by the decoder in one pass.

A pass feeds the token that is certain and J drafts behind it. The longest prefix of the drafts that
agrees with the decoder is kept, and the decoder's own next token behind it; the cache forgets the
rest. Greedy completions are therefore those of decoding one by one, up to rounding of the products
of several rows; sampled ones have the same distribution.

The blocks continue behind every pass over those tokens that were confirmed, so that their caches
need no rollback: they hold what the decoder's cache holds.

Shape legend: B rows of a pass, T tokens, J drafts, D decoder width, V rows of the head.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stepaudio.generation.bias import add_bias
from stepaudio.generation.completion import Completion, GenerationPrompt, TokenEvent
from stepaudio.generation.generator import Generator
from stepaudio.generation.run import Run
from stepaudio.generation.sampling import SamplingParams
from stepaudio.generation.speculative import SpeculativeSampler
from stepaudio.models.drafting import Drafter, FusedDrafter, ModuleDrafter
from stepaudio.models.fused import FusedDecoder
from stepaudio.models.kv_cache import SlotKVCache
from stepaudio.models.mtp import MultiTokenPredictor

_GREEDY = SamplingParams()


class MultiTokenGenerator:
    """Generates completions as its `Generator` does, several tokens a pass."""

    def __init__(
        self,
        generator: Generator,
        predictor: MultiTokenPredictor,
        *,
        num_drafts: int | None = None,
    ) -> None:
        """Prepare the blocks for inference.

        Args:
            generator: generator of the model that the blocks belong to.
            predictor: the blocks; their weights must not change while this is used.
            num_drafts: drafts of a pass; None: one of every block. Fewer are faster where the last
                ones are seldom right.

        Raises:
            ValueError: there are fewer blocks, they propose tokens that the generator does not
                compute, or the generator has logits processors.
        """
        num_blocks = predictor.config.num_blocks
        self.num_drafts = num_blocks if num_drafts is None else num_drafts
        if not 1 <= self.num_drafts <= num_blocks:
            raise ValueError(f"num_drafts must lie between 1 and {num_blocks}, got {num_drafts}")
        if generator.has_processors:
            raise ValueError("multi-token decoding does not support logits processors")
        ids = predictor.draft_ids
        if ids is not None and int(ids.max()) >= generator.vocab_size:
            raise ValueError("the blocks propose tokens that the generator does not compute")
        self.generator = generator
        self._predictor = predictor.eval()
        decoder = generator.decoder()
        model, rows = generator.model, generator.rows
        self.drafter: Drafter = ModuleDrafter(predictor, model, rows)
        if isinstance(decoder, FusedDecoder):
            self.drafter = FusedDrafter(predictor, model, decoder, rows)
        self.draft_ids = ids

    def new_cache(self, num_slots: int, max_len: int) -> SlotKVCache:
        """Create an empty slot cache for the blocks."""
        weight = self.generator.model.lm_head.weight
        config = self._predictor.cache_config(self.num_drafts)
        return SlotKVCache(config, num_slots, max_len, dtype=weight.dtype, device=weight.device)

    def generate(
        self,
        prompts: Sequence[GenerationPrompt],
        params: SamplingParams | Sequence[SamplingParams] = _GREEDY,
        *,
        num_slots: int = 8,
    ) -> list[Completion]:
        """Complete prompts; see `Generator.generate`.

        Sampling follows the distribution of `Generator`, but with other random numbers.

        Raises:
            CapacityError: a prompt exceeds the model's context.
            ValueError: a prompt has an adapter, or sampling is constrained or repetition aware.
        """
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if not prompts:
            return []
        run = _MultiTokenRun(self, prompts, each, min(num_slots, len(prompts)))
        deque(run.events(), maxlen=0)
        return run.completions

    def stream(
        self, prompt: GenerationPrompt, params: SamplingParams = _GREEDY
    ) -> Iterator[TokenEvent]:
        """Complete one prompt and yield the tokens of a pass as soon as they are there."""
        return _MultiTokenRun(self, [prompt], [params], 1).events()


class _MultiTokenRun(Run):
    """A run whose passes verify drafts.

    Between two passes every slot holds its next token and the drafts behind it.
    """

    def __init__(
        self,
        multi: MultiTokenGenerator,
        prompts: Sequence[GenerationPrompt],
        params: Sequence[SamplingParams],
        num_slots: int,
    ) -> None:
        for prompt, wanted in zip(prompts, params, strict=True):
            if prompt.adapter:
                raise ValueError("the prediction blocks belong to the model without adapters")
            if wanted.constraint is not None or wanted.redraws:
                raise ValueError(
                    "multi-token decoding supports neither constraints nor repetition windows"
                )
        generator = multi.generator
        super().__init__(generator, prompts, params, num_slots)
        self._multi = multi
        self._decoder = generator.decoder()
        self._drafter = multi.drafter
        self._block_cache = multi.new_cache(num_slots, self._cache.max_len)
        device, num_drafts = generator.device, multi.num_drafts
        self._drafts = torch.zeros(num_slots, num_drafts, dtype=torch.long, device=device)
        self._proposal: Tensor | None = None  # [slots, J, V], where anything is sampled
        self._speculation = SpeculativeSampler(
            num_slots,
            generator.vocab_size,
            device,
            num_drafts=num_drafts,
            first_code_id=generator.model.config.first_code_token_id,
        )
        if not all(p.temperature == 0 for p in params):
            shape = (num_slots, num_drafts, generator.vocab_size)
            self._proposal = torch.zeros(shape, device=device)

    def _begin(self, slots: range) -> tuple[list[int], list[float]]:
        prompts = [self._prompts[self._live[slot]] for slot in slots]
        for slot, prompt in zip(slots, prompts, strict=True):
            self._speculation.assign(slot, self._params[self._live[slot]], prompt.ids)
        lens = [len(prompt.ids) for prompt in prompts]
        embeds = self._generator.embed(prompts)
        step = self._cache.begin(slots, embeds.shape[1], lens)
        hidden = self._decoder.hidden(embeds, step)
        rows, last = torch.arange(len(lens), device=embeds.device), torch.tensor(lens) - 1
        logits = self._decoder.project(hidden[rows, last])[:, None]
        nothing = self._drafts[slots.start : slots.stop, :0]
        biased = add_bias(logits[:, 0], [self._bias_behind(slot) for slot in slots])[:, None]
        _, ids = self._verify(biased, nothing, [0] * len(lens), slots)
        self._tokens[slots.start : slots.stop] = ids
        # Behind every token of the prompt stands the next one, behind the last the new one.
        ahead = torch.roll(self._drafter.inputs(embeds), -1, dims=1)
        ahead[rows, last] = self._drafter.token_inputs(ids)
        self._draft(hidden, ahead, lens, slots)
        return ids.tolist(), _log_probs(logits, ids[:, None])[:, 0].tolist()

    @torch.inference_mode()
    def _advance(self) -> list[TokenEvent]:
        start = time.perf_counter()
        members = list(self._live)
        slots = range(len(members))
        counts = [self._num_useful(index) for index in members]
        drafts = self._drafts[: len(slots), : max(counts)]
        held = [self._cache.lengths[slot] for slot in slots]
        fed = torch.cat([self._tokens[: len(slots), None], drafts], dim=1)
        step = self._cache.begin(slots, fed.shape[1], [count + 1 for count in counts])
        hidden = self._decoder.hidden(self._generator.model.model.embed_tokens(fed), step)
        logits = self._decoder.project(hidden)
        accepted, ids = self._verify(self._biased(logits, drafts, slots), drafts, counts, slots)
        # What a row has gained: the accepted drafts and the decoder's token behind them.
        gained = torch.cat([drafts, ids[:, None]], dim=1).scatter(
            1, accepted[:, None], ids[:, None]
        )
        self._tokens[: len(slots)] = ids
        log_probs = _log_probs(logits, gained).tolist()
        sizes = [count + 1 for count in accepted.tolist()]
        for slot in slots:
            self._cache.truncate(slot, held[slot] + sizes[slot])
        events = self._record_many(gained.tolist(), log_probs, sizes)
        survivors = self._free_finished_rows()
        if survivors:
            rows = torch.tensor(survivors, device=hidden.device)
            lens = [sizes[row] for row in survivors]
            ahead = self._drafter.token_inputs(gained[rows, : max(lens)])
            self._draft(hidden[rows, : max(lens)], ahead, lens, range(len(survivors)))
        seconds = time.perf_counter() - start
        for index in members:
            self.completions[index].stats.decode_s += seconds / len(members)
        return events

    def _num_useful(self, index: int) -> int:
        """How many drafts of a completion could still be kept."""
        missing = self._budgets[index] - len(self.completions[index].ids)
        return min(self._multi.num_drafts, missing - 1)

    def _biased(self, logits: Tensor, drafts: Tensor, slots: range) -> Tensor:
        """Logits [B, J + 1, V] with the bias behind the tokens of each place."""
        if all(self._params[self._live[slot]].bias is None for slot in slots):
            return logits
        behind = [
            self._bias_behind(slot, ids[:place])
            for slot, ids in zip(slots, drafts.tolist(), strict=True)
            for place in range(logits.shape[1])
        ]
        return add_bias(logits.flatten(0, 1), behind).view_as(logits)

    def _verify(
        self, logits: Tensor, drafts: Tensor, counts: Sequence[int], slots: range
    ) -> tuple[Tensor, Tensor]:
        """Number [B] of drafts [B, J] to keep, and the token [B] behind, from logits [B, J + 1, V].

        Only the first of a row's drafts count.
        """
        if self._proposal is not None or not self._speculation.is_greedy(slots):
            num_drafts = drafts.shape[1]
            if self._proposal is None:  # greedy, with repetition penalties
                proposal = torch.zeros_like(logits[:, :num_drafts], dtype=torch.float)
                proposal.scatter_(-1, drafts[..., None], 1.0)
            else:
                proposal = self._proposal[slots.start : slots.stop, :num_drafts]
            return self._speculation.verify(logits, proposal, drafts, counts, slots)
        best = logits.argmax(-1)
        offsets = torch.arange(drafts.shape[1], device=drafts.device)
        agrees = best[:, :-1] == drafts
        if len(set(counts)) > 1:
            agrees = agrees & (offsets < torch.tensor(counts, device=drafts.device)[:, None])
        accepted = agrees.long().cumprod(-1).sum(-1)
        return accepted, best.gather(1, accepted[:, None])[:, 0]

    def _draft(self, hidden: Tensor, ahead: Tensor, lens: Sequence[int], slots: range) -> None:
        """Continue the blocks over confirmed tokens and draft behind them.

        Args:
            hidden: [B, T, D] hidden states of the decoder at these tokens.
            ahead: [B, T, D] inputs of the token behind each of them.
            lens: how many of a row's tokens are there.
            slots: slots of the rows.
        """
        batch, num_new = ahead.shape[:2]
        num_drafts = self._multi.num_drafts
        inputs = torch.cat([ahead, ahead.new_zeros(batch, num_drafts - 1, ahead.shape[2])], dim=1)
        step = self._block_cache.begin(slots, num_new, lens)
        run_block = self._drafter.begin(step, batch, num_new)
        rows: slice | Tensor = slice(None)
        last: int | Tensor = num_new - 1
        if min(lens) < num_new:
            rows = torch.arange(batch, device=ahead.device)
            last = torch.tensor(lens, device=ahead.device) - 1
        for index in range(num_drafts):
            hidden = run_block(index, hidden, inputs[:, index : index + num_new])
            ids = self._propose(self._drafter.project(hidden[rows, last]), index, slots)
            self._drafts[slots.start : slots.stop, index] = ids
            if index + 1 < num_drafts:
                inputs[rows, last + 1 + index] = self._drafter.token_inputs(ids)

    def _propose(self, logits: Tensor, index: int, slots: range) -> Tensor:
        known = self._multi.draft_ids
        if self._proposal is None:
            best = logits.argmax(-1)
            return best if known is None else known[best]
        chosen, proposal = self._speculation.propose(logits, slots)
        if known is None:
            self._proposal[slots.start : slots.stop, index] = proposal
            return chosen
        self._proposal[slots.start : slots.stop, index, known] = proposal
        return known[chosen]

    def _record_many(
        self,
        ids: Sequence[Sequence[int]],
        log_probs: Sequence[Sequence[float]],
        sizes: Sequence[int],
    ) -> list[TokenEvent]:
        """Note what every row has gained, up to the end of its completion."""
        events = []
        for slot, size in enumerate(sizes):
            stats = self.completions[self._live[slot]].stats
            num_kept = 0
            for token, log_prob in zip(ids[slot][:size], log_probs[slot], strict=False):
                events.append(self._note(slot, token, log_prob))
                num_kept += 1
                if events[-1].finish_reason is not None:
                    break
            stats.record_pass(num_kept - 1)
        return events

    def _free_finished_rows(self) -> list[int]:
        """Free finished slots; returns for every slot left the row that it was in the pass."""
        rows = list(range(len(self._live)))
        for slot in reversed(range(len(self._live))):
            if self.completions[self._live[slot]].finish_reason is not None:
                rows[slot] = rows[-1]
                rows.pop()
                self._free(slot)
        return rows

    def _free(self, slot: int) -> None:
        last = len(self._live) - 1
        if slot != last:
            self._block_cache.copy_slot(last, slot)
            self._speculation.move(last, slot)
            for state in (self._drafts, self._proposal):
                if state is not None:
                    state[slot] = state[last]
        self._block_cache.truncate(last, 0)
        super()._free(slot)


def _log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [B, T] of ids [B, T] under logits [B, T, V]."""
    chosen = logits.gather(-1, ids[..., None])[..., 0].float()
    return chosen - logits.float().logsumexp(-1)
