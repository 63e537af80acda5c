"""Pronunciations of English words, from the words file of a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from stepaudio.text.word_model import WordModel

_POSSESSIVE = "'s"
_SHORTEST_PART = 4  # letters; shorter words are found in any word by chance
_SIBILANTS = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})

Phones = tuple[str, ...]


class WordLexicon:
    """Looks words up, and what English makes of them: possessives, plurals and compounds.

    Args:
        model: words with their pronunciations.
    """

    def __init__(self, model: WordModel) -> None:
        self._model = model
        self._first = np.concatenate([[0], np.cumsum(model.num_spoken, dtype=np.int64)])
        self._ends = np.concatenate([[0], np.cumsum(model.spoken_lens, dtype=np.int64)])

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self._model.words)}

    def __contains__(self, word: object) -> bool:
        """Whether the word has a pronunciation."""
        return isinstance(word, str) and bool(self.pronunciations(word))

    def pronunciations(self, word: str) -> Sequence[Phones]:
        """Ways to say a lower-case word, the usual one first; none if it is unknown."""
        row = self._rows.get(word)
        if row is not None and self._model.num_spoken[row]:
            spoken = range(int(self._first[row]), int(self._first[row + 1]))
            return tuple(self._phones(index) for index in spoken)
        if word.endswith(_POSSESSIVE) and word != _POSSESSIVE:
            owner = self.pronunciations(word.removesuffix(_POSSESSIVE))
            return tuple(_with_s(phones) for phones in owner)
        if word.endswith("s") and len(word) > _SHORTEST_PART and word[:-1] in self._rows:
            return tuple(_with_s(phones) for phones in self.pronunciations(word[:-1]))
        return self._compound(word)

    def _compound(self, word: str) -> Sequence[Phones]:
        """An unknown word of two known ones, of which the first is as long as possible."""
        for place in range(len(word) - _SHORTEST_PART, _SHORTEST_PART - 1, -1):
            first, second = word[:place], word[place:]
            if first in self._rows and second in self._rows:
                return (self.pronunciations(first)[0] + self.pronunciations(second)[0],)
        return ()

    def _phones(self, index: int) -> Phones:
        indices = self._model.spoken_phones[self._ends[index] : self._ends[index + 1]]
        return tuple(self._model.phones[phone - 1] for phone in indices.tolist())


def _with_s(phones: Phones) -> Phones:
    if phones[-1] in _SIBILANTS:
        return (*phones, "IH", "Z")
    return (*phones, "S" if phones[-1] in _VOICELESS else "Z")
