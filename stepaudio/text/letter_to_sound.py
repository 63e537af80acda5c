"""Pronunciations of words that no dictionary has, by analogy to those that it has.

Every letter is said as in the known words that have the most letters around it in common
(Dedina and Nusbaum, "PRONOUNCE: a program for pronunciation by analogy", 1991). For that the
letters of a known word are aligned with its phones, by which phones a letter can stand for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from stepaudio.text.lexicon import Phones, WordLexicon
from stepaudio.text.word_model import WordModel

# What an English letter may stand for: phones, two of them joined by "-".
_ALLOWED = {
    letter: tuple(tuple(chunk.split("-")) for chunk in chunks.split())
    for letter, chunks in {
        "a": "AE AH EY AA AO EH IH ER AW", "b": "B P", "c": "K S CH SH", "d": "D T JH",
        "e": "EH AH IY IH EY ER AE Y-UW", "f": "F V", "g": "G JH ZH K F", "h": "HH",
        "i": "IH AH AY IY Y ER EH", "j": "JH Y HH ZH", "k": "K G", "l": "L AH-L", "m": "M AH-M",
        "n": "N NG AH-N", "o": "AA AH OW AO UW UH OY AW IH W-AH ER", "p": "P F B", "q": "K",
        "r": "R ER AH-R", "s": "S Z SH ZH", "t": "T CH SH D TH DH", "v": "V F", "w": "W V UW F",
        "u": "AH UW UH Y-UW W IH ER Y-AH Y-UH Y-ER EH", "x": "K-S G-Z Z K-SH S K",
        "y": "IY IH AY Y AH", "z": "Z S T-S ZH",
    }.items()
}  # fmt: skip
_SILENT_COST, _STRANGE_COST = 0.6, 2.0
# Letters to the left and right that must agree, most first.
_CONTEXTS = ((4, 4), (3, 3), (3, 2), (2, 3), (2, 2), (1, 2), (2, 1), (1, 1), (0, 1), (0, 0))
_MAX_EXAMPLES = 24
_SECOND_SHARE = 0.2  # of the examples, which makes a letter's second reading worth a variant
_EDGE, _GAP = "#", "\n"


class LetterToSound:
    """Pronounces any word of the letters a to z and apostrophes.

    Args:
        model: known words with their pronunciations.
    """

    def __init__(self, model: WordModel) -> None:
        self._words = model.words
        self._lexicon = WordLexicon(model)
        self._alignments: dict[str, tuple[Phones, ...]] = {}

    @cached_property
    def _text(self) -> str:
        """All known words, one behind the other, each with its edges."""
        return _GAP.join(f"{_EDGE}{word}{_EDGE}" for word in self._words)

    def pronunciations(self, word: str, limit: int = 3) -> tuple[Phones, ...]:
        """Ways to say a word, the likeliest first; those of the dictionary if it knows the word.

        Args:
            word: lower case.
            limit: most ways that are returned.

        Returns:
            None for a word without letters.
        """
        known = self._lexicon.pronunciations(word)
        if known:
            return tuple(known[:limit])
        readings = [self._readings(word, place) for place in range(len(word))]
        best = [options[0][0] for options in readings]
        ways = [best]
        doubtful = [
            (share, place, chunk)
            for place, options in enumerate(readings)
            for chunk, share in options[1:2]
            if share >= _SECOND_SHARE
        ]
        for _, place, chunk in sorted(doubtful, key=lambda option: (-option[0], option[1])):
            ways.append([*best[:place], chunk, *best[place + 1 :]])
        spoken = dict.fromkeys(tuple(phone for chunk in way for phone in chunk) for way in ways)
        return tuple(phones for phones in spoken if phones)[:limit]

    def _readings(self, word: str, place: int) -> list[tuple[Phones, float]]:
        """What the letter at a place may stand for, with shares, the most frequent first."""
        if word[place] not in _ALLOWED:
            return [((), 1.0)]
        edged = f"{_EDGE}{word}{_EDGE}"
        at = place + 1
        for left, right in _CONTEXTS:
            first = max(at - left, 0)
            counts = Counter(self._examples(edged[first : at + right + 1], at - first))
            if counts:
                total = sum(counts.values())
                return [(chunk, count / total) for chunk, count in counts.most_common()]
        return [(_ALLOWED[word[place]][0], 1.0)]

    def _examples(self, context: str, offset: int) -> Iterator[Phones]:
        """Phones of the letter at an offset in a context, in known words that have the context."""
        found = -1
        for _ in range(_MAX_EXAMPLES):
            found = self._text.find(context, found + 1)
            if found < 0:
                return
            start = self._text.rfind(_GAP, 0, found) + 1
            word = self._text[start + 1 : self._text.index(_EDGE, start + 1)]
            if word not in self._alignments:
                spoken = self._lexicon.pronunciations(word)[0]
                self._alignments[word] = align_letters(word, spoken)
            yield self._alignments[word][found + offset - start - 1]


def align_letters(word: str, phones: Phones) -> tuple[Phones, ...]:
    """Phones of each letter of a word, none to two; together they are the word's phones."""
    num_phones = len(phones)
    worst = float("inf")
    costs = [0.0] + [worst] * num_phones
    steps: list[list[int]] = []
    for letter in word:
        allowed = _ALLOWED.get(letter, ())
        following, taken = [worst] * (num_phones + 1), [0] * (num_phones + 1)
        for place, cost in enumerate(costs):
            for size in (0, 1, 2):
                if cost == worst or place + size > num_phones:
                    break
                price = cost + _price(phones[place : place + size], allowed)
                if price < following[place + size]:
                    following[place + size], taken[place + size] = price, size
        costs = following
        steps.append(taken)
    chunks: list[Phones] = []
    place = num_phones
    if costs[place] == worst:  # an abbreviation that is said in full
        return (tuple(phones), *((),) * (len(word) - 1)) if word else ()
    for taken in reversed(steps):
        chunks.append(phones[place - taken[place] : place])
        place -= taken[place]
    return tuple(reversed(chunks))


def _price(chunk: Phones, allowed: tuple[Phones, ...]) -> float:
    if not chunk:
        return _SILENT_COST if allowed else 0.0
    if chunk in allowed:
        return 0.0
    return _STRANGE_COST * len(chunk)
