"""What the slots of the runner's cache hold, token by token, so that nothing is read twice."""

from __future__ import annotations

from collections.abc import Sequence

from stepaudio.errors import CapacityError
from stepaudio.models.kv_cache import SlotKVCache


def named_tokens(ids: Sequence[int], sounds: Sequence[int], patch: int) -> list[int]:
    """Tokens of a prompt, with the names of sounds instead of their placeholders.

    Args:
        ids: of the prompt.
        sounds: names of its sounds, from 0.
        patch: the placeholder; every run of it is the next sound.

    Returns:
        As many numbers; those of sounds are negative.
    """
    named: list[int] = []
    run = -1
    for index, token in enumerate(ids):
        if token != patch:
            named.append(token)
            continue
        if index == 0 or ids[index - 1] != patch:
            run += 1
        named.append(-1 - sounds[run])
    return named


class SlotMemory:
    """Tokens whose keys and values the slots of a cache hold.

    Args:
        cache: whose lengths say how much of each slot counts.
    """

    def __init__(self, cache: SlotKVCache) -> None:
        self._cache = cache
        self._tokens: list[list[int]] = [[] for _ in range(cache.num_slots)]
        self._adapters = [0] * cache.num_slots

    def keep(self, slot: int, named: Sequence[int], adapter: int) -> int:
        """Roll a slot back to what it shares with a prompt.

        At least one token of the prompt is left to be read, and a sound is kept whole or not at
        all.

        Args:
            slot: the slot.
            named: the prompt, see `named_tokens`.
            adapter: decoder that reads it; what another one has read is of no use.

        Returns:
            Tokens of the prompt that the slot holds now.
        """
        tokens = self._tokens[slot]
        del tokens[self._cache.lengths[slot] :]
        length = 0
        if self._adapters[slot] == adapter:
            length = _whole_sounds(named, min(_num_equal(tokens, named), len(named) - 1))
        try:
            self._cache.truncate(slot, length)
        except CapacityError:  # layers with a window have forgotten what came before
            length = 0
            self._cache.truncate(slot, 0)
        del tokens[length:]
        self._adapters[slot] = adapter
        return length

    def add(self, slot: int, named: Sequence[int]) -> None:
        """Tokens were read into a slot."""
        self._tokens[slot].extend(named)


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning, found with few comparisons of long stretches."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _whole_sounds(named: Sequence[int], length: int) -> int:
    """Length of a beginning that ends inside of no sound."""
    if length < len(named) and named[length] < 0:
        while length > 0 and named[length - 1] == named[length]:
            length -= 1
        return max(0, length - 1)  # the mark before it tells where its latents go
    return length
