"""Phrases found in a sequence while it grows, with what each symbol adds to a score.

An automaton after Aho and Corasick ("Efficient string matching", 1975). A symbol that continues a
phrase gains its value at once, so that a search keeps it; when the phrase breaks off, all that it
gained is taken back, and when it is complete, it is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NO_PHRASE = 0
"""State in which no phrase has begun."""


@dataclass(frozen=True)
class PhraseAutomaton:
    """States of all phrases; columns are the symbols that occur in them, column 0 all others.

    Attributes:
        columns: symbol to its column.
        following: [states, columns] state behind a symbol.
        gains: [states, columns] what the symbol adds to the score, negative where a phrase breaks
            off.
        pending: [states] gained, but for a phrase that is not complete.
    """

    columns: Mapping[int, int]
    following: Ints
    gains: Floats
    pending: Floats

    @classmethod
    def build(
        cls, phrases: Iterable[Sequence[int]], values: Mapping[int, float]
    ) -> PhraseAutomaton:
        """Make the automaton of some phrases.

        Args:
            phrases: symbols of each; empty ones are left out.
            values: what each symbol is worth within a phrase.
        """
        known = list(dict.fromkeys(tuple(phrase) for phrase in phrases if phrase))
        columns = {
            symbol: column
            for column, symbol in enumerate(dict.fromkeys(s for p in known for s in p), 1)
        }
        children: list[dict[int, int]] = [{}]
        is_end = [False]
        worth = np.zeros(len(columns) + 1)
        for symbol, column in columns.items():
            worth[column] = values[symbol]
        for phrase in known:
            state = NO_PHRASE
            for symbol in phrase:
                column = columns[symbol]
                if column not in children[state]:
                    children[state][column] = len(children)
                    children.append({})
                    is_end.append(False)
                state = children[state][column]
            is_end[state] = True
        return cls(columns, *_tables(children, is_end, worth))

    def column_of(self, num_symbols: int) -> Ints:
        """[num_symbols] column of every symbol."""
        table = np.zeros(num_symbols, np.int64)
        for symbol, column in self.columns.items():
            table[symbol] = column
        return table

    def state_behind(self, symbols: Iterable[int]) -> int:
        """State behind a sequence."""
        state = NO_PHRASE
        for symbol in symbols:
            state = int(self.following[state, self.columns.get(symbol, 0)])
        return state

    def score(self, symbols: Iterable[int]) -> float:
        """What the complete phrases in a sequence are worth."""
        state, total = NO_PHRASE, 0.0
        for symbol in symbols:
            column = self.columns.get(symbol, 0)
            total += float(self.gains[state, column])
            state = int(self.following[state, column])
        return total - float(self.pending[state])


def _tables(
    children: Sequence[Mapping[int, int]], is_end: Sequence[bool], worth: Floats
) -> tuple[Ints, Floats, Floats]:
    """Following states, gains and pending values from a tree of phrases."""
    num_states = len(children)
    following = np.zeros((num_states, len(worth)), np.int64)
    pending, completed = np.zeros(num_states), np.zeros(num_states)
    waiting = deque([(NO_PHRASE, NO_PHRASE)])  # a state, and its longest proper suffix
    while waiting:
        state, suffix = waiting.popleft()
        following[state] = following[suffix]
        for column, child in children[state].items():
            fallback = int(following[suffix, column]) if state != NO_PHRASE else NO_PHRASE
            gained = pending[state] + worth[column]
            # A phrase that goes on behind a shorter one adds to it.
            pending[child] = 0.0 if is_end[child] else gained
            completed[child] = gained if is_end[child] else completed[fallback]
            following[state, column] = child
            waiting.append((child, fallback))
    gains = pending[following] + completed[following] - pending[:, None]
    gains[:, 0] = -pending
    return following, gains, pending
