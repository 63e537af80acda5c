"""Tokens that are made likelier while phrases, such as hotwords, can be written.

Shape legend: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from stepaudio.text.phrases import NO_PHRASE, PhraseAutomaton


class TokenBias(Protocol):
    """Decides from what was generated; it keeps no state, so that any number may share it."""

    def bias(self, ids: Sequence[int]) -> Mapping[int, float]:
        """What to add to the logits of some tokens that may follow the generated `ids`."""
        ...


class PhraseBias:
    """Adds to the logits of tokens that begin or continue a phrase (shallow fusion).

    Greedy decoding with it is greedy decoding of the changed logits, whether token by token or
    with drafts. A phrase that breaks off keeps what its tokens were given, because these are
    written already: therefore its first token is given less than the others.

    Args:
        phrases: tokens of each phrase.
        first: added to a token that begins a phrase.
        further: added to a token that continues one.
    """

    def __init__(self, phrases: Iterable[Sequence[int]], *, first: float, further: float) -> None:
        known = [tuple(phrase) for phrase in phrases if phrase]
        ones = {token: 1.0 for phrase in known for token in phrase}
        self._automaton = PhraseAutomaton.build(known, ones)
        self._longest = max(map(len, known), default=0)
        self._tokens = {column: token for token, column in self._automaton.columns.items()}
        begins = {self._automaton.state_behind(phrase[:1]) for phrase in known}
        self._first, self._further, self._begins = first, further, begins
        self._known: dict[int, Mapping[int, float]] = {}

    def bias(self, ids: Sequence[int]) -> Mapping[int, float]:
        """See `TokenBias`."""
        state = self._automaton.state_behind(ids[max(len(ids) - self._longest, 0) :])
        if state not in self._known:
            self._known[state] = {
                self._tokens[column]: self._first if target in self._begins else self._further
                for column, target in enumerate(self._automaton.following[state].tolist())
                if target != NO_PHRASE
            }
        return self._known[state]


def add_bias(logits: Tensor, rows: Sequence[tuple[TokenBias | None, Sequence[int]]]) -> Tensor:
    """Logits [B, V] with the bias of every row, given the ids that stand before it.

    Where no row has a bias, these are the same logits.
    """
    if all(bias is None for bias, _ in rows):
        return logits
    changed = logits.clone()
    for row, (bias, ids) in enumerate(rows):
        added = {} if bias is None else bias.bias(ids)
        if added:
            tokens = torch.tensor(list(added), device=logits.device)
            changed[row, tokens] += logits.new_tensor(list(added.values()))
    return changed
