"""Steps over all slots of a cache from buffers that stay where they are, for CUDA graphs.

A step on a GPU is bound by the launches of its operations unless they are recorded once and played
again. Therefore nothing here depends on the host: positions, masks, places of new keys and the next
tokens are computed on the device, from tensors whose addresses never change. Attention reads the
first so many positions of the cache; for every such number, a power of two, one graph is recorded.
The layers are those of `FusedDecoder`. Without CUDA the same code runs without graphs.

Shape legend: N slots, T = 1, L keys, G key and value heads, K head width, V rows of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stepaudio.errors import CapacityError
from stepaudio.models.fused import FusedDecoder
from stepaudio.models.kv_cache import SlotKVCache
from stepaudio.models.masks import AttentionPlan, Window, visible
from stepaudio.models.passes import SlotRows, WindowRows
from stepaudio.models.step_audio import StepAudio2ForCausalLM

_SHORTEST = 256  # keys that are read at least
_NUM_WARM_UPS = 3  # before a graph is recorded, as torch asks


class StaticSteps:
    """Greedy steps of all slots together; a slot that is not held does not change.

    Attributes:
        tokens: [N] next token of every slot; a step replaces it.
        logits: [N, V] of the last step; None before the first.
    """

    def __init__(
        self,
        model: StepAudio2ForCausalLM,
        decoder: FusedDecoder,
        cache: SlotKVCache,
        *,
        transform: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
    ) -> None:
        """Prepare the buffers.

        Args:
            model: embeds the tokens.
            decoder: its fused decoder.
            cache: holds the prompts; its slots are advanced.
            transform: applied to the step before it is recorded, such as `torch.compile`.
        """
        device = cache.device
        num_slots = cache.num_slots
        self._embed = model.model.embed_tokens
        self._decoder = decoder
        self._cache = cache
        self.tokens = torch.zeros(num_slots, dtype=torch.long, device=device)
        self.logits: Tensor | None = None
        self._positions = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._is_held = torch.zeros(num_slots, dtype=torch.bool, device=device)
        self._held: set[int] = set()
        self._slots = torch.arange(num_slots, device=device)
        self._step = transform(self._run) if transform is not None else self._run
        self._graphs: dict[int, tuple[Any, Tensor]] = {}

    def hold(self, slots: Sequence[int], tokens: Tensor) -> None:
        """Take slots that hold a prompt, with the token [B] behind each."""
        rows = torch.tensor(list(slots), device=self.tokens.device)
        lengths = [self._cache.lengths[slot] for slot in slots]
        self.tokens[rows] = tokens
        self._positions[rows] = torch.tensor(lengths, device=self.tokens.device)
        self._is_held[rows] = True
        self._held.update(slots)

    def release(self, slot: int) -> None:
        """Let a slot go."""
        self._is_held[slot] = False
        self._held.discard(slot)

    @torch.inference_mode()
    def advance(self) -> Tensor:
        """Append the next token to every held slot; returns `tokens`, without waiting for it.

        Raises:
            CapacityError: a slot is full.
            ValueError: no slot is held.
        """
        if not self._held:
            raise ValueError("no slot is held")
        lengths = self._cache.lengths
        longest = max(lengths[slot] for slot in self._held)
        if longest >= self._cache.max_len:
            raise CapacityError(
                f"a slot holds {longest} of {self._cache.max_len} tokens; one more does not fit"
            )
        num_read = _SHORTEST
        while num_read <= longest:
            num_read *= 2
        num_read = min(num_read, self._cache.max_len)
        if self.tokens.device.type == "cuda":
            self.logits = self._replay(num_read)
        else:
            self.logits = self._step(num_read)
        for slot in self._held:
            lengths[slot] += 1
        return self.tokens

    def _run(self, num_read: int) -> Tensor:
        """One step; all of it happens on the device."""
        positions = self._positions[:, None]
        rows = SlotRows(self._slots, 0, False)
        places: dict[Window, WindowRows] = {}
        masks: dict[Window, Tensor | None] = {}
        for window in set(self._cache.windows):
            size = self._cache.size(window)
            target = torch.where(self._is_held, self._positions % size, size)
            heads = self._cache.buffers[0].shape[2]
            lines = self._slots[:, None] * heads + torch.arange(heads, device=target.device)
            write = (lines * (size + 1) + target[:, None]).flatten()
            count = min(num_read, size)
            places[window] = WindowRows(-1, write, count, False)
            stored = torch.arange(count, device=target.device)
            # A ring entry holds the newest position that is congruent to it.
            keys = positions - (positions - stored) % size
            masks[window] = visible(positions, keys, window)
        embeds = self._embed(self.tokens)[:, None]
        plan = AttentionPlan(positions, masks)
        buffers = self._cache.buffers
        logits = self._decoder.step_in_place(embeds, buffers, plan, rows, places)
        self.tokens.copy_(torch.where(self._is_held, logits.argmax(-1), self.tokens))
        self._positions.add_(self._is_held)
        return logits

    def _replay(self, num_read: int) -> Tensor:
        if num_read not in self._graphs:
            self._graphs[num_read] = self._record(num_read)
        graph, logits = self._graphs[num_read]
        graph.replay()
        return logits

    def _record(self, num_read: int) -> tuple[Any, Tensor]:
        """Record a step; what the warm-ups have changed is put back."""
        kept = self.tokens.clone(), self._positions.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_NUM_WARM_UPS):
                self._step(num_read)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._step(num_read)
        self.tokens.copy_(kept[0])
        self._positions.copy_(kept[1])
        return graph, logits
