"""Questions as a recogniser might write them down: words lost, confused or made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from stepaudio_recipes.dialogue_world.phrases import Word
from stepaudio_recipes.lexicon import Lexicon

Verdict = Literal["clear", "doubtful", "lost"]

# How likely a word is misheard, relative to the severity.
_RATES = {"filler": 1.0, "cue": 0.5, "slot": 0.4}
_DROP, _NEAR = 0.3, 0.85  # share of lost words, and of lost or similar ones
_INSERT_RATE = 0.1
_NEAR_CUE = 0.75  # how much of a cue is left in a similar word
_ENOUGH_CUES = 0.7  # share of the cues that makes a question certain
_KEPT_WHOLE = frozenset({"word"})  # slots that are never misheard
_INSERTED = ("a", "the", "and", "uh", "to", "of", "in", "i")


class SoundAlikes:
    """Words by what sounds nearly the same: at most one phone lost, added or exchanged."""

    def __init__(self, lexicon: Lexicon, words: Sequence[str]) -> None:
        """Index words; those without a pronunciation are left out."""
        self._lexicon = lexicon
        self._index: dict[tuple[str, ...], list[str]] = {}
        self.words = tuple(word for word in words if lexicon.pronunciations(word))
        for word in self.words:
            for key in _keys(lexicon.pronunciations(word)[0]):
                self._index.setdefault(key, []).append(word)
        self._known: dict[str, tuple[str, ...]] = {}

    def near(self, word: str) -> tuple[str, ...]:
        """Words that sound nearly like a word, itself left out, in a fixed order."""
        if word not in self._known:
            keys = (k for p in self._lexicon.pronunciations(word)[:1] for k in _keys(p))
            found = dict.fromkeys(other for key in keys for other in self._index.get(key, ()))
            self._known[word] = tuple(other for other in found if other != word)
        return self._known[word]


def _keys(phones: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """A pronunciation, and what is left of it when one phone is missing."""
    whole = tuple(phones)
    yield whole
    if len(whole) > 1:
        yield from ((*whole[:n], "", *whole[n + 1 :]) for n in range(len(whole)))
        yield from dict.fromkeys(whole[:n] + whole[n + 1 :] for n in range(len(whole)))


@dataclass(frozen=True)
class Heard:
    """What was made of a question.

    Attributes:
        text: all words.
        slots: what was heard for each slot; a slot is missing where nothing is left of it.
        verdict: "clear" if the cues still tell what is meant, "lost" if none does.
    """

    text: str
    slots: Mapping[str, str]
    verdict: Verdict


def mishear(words: Sequence[Word], severity: float, sounds: SoundAlikes, rng: Random) -> Heard:
    """Mishear a question.

    Args:
        words: the question.
        severity: probability that a word without meaning is misheard; 0: all is well.
        sounds: similar words.
        rng: draws.
    """
    heard: list[Word] = []
    num_cues, score = 0, 0.0
    for word in words:
        other = _misheard(word, severity, sounds, rng)
        if word.role == "cue":
            num_cues += 1
            near = other is not None and other in sounds.near(word.text)
            score += 1.0 if other == word.text else _NEAR_CUE if near else 0.0
        if other is not None:
            heard.append(Word(other, word.role, word.slot))
        if severity and rng.random() < severity * _INSERT_RATE:
            heard.append(Word(rng.choice(_INSERTED), "filler"))
    verdict: Verdict = "clear"
    if num_cues and score < num_cues * _ENOUGH_CUES:
        verdict = "lost" if score == 0 else "doubtful"
    slots: dict[str, str] = {}
    for word in heard:
        if word.slot:
            slots[word.slot] = (
                f"{slots[word.slot]} {word.text}" if word.slot in slots else word.text
            )
    return Heard(" ".join(word.text for word in heard), slots, verdict)


def _misheard(word: Word, severity: float, sounds: SoundAlikes, rng: Random) -> str | None:
    """What is heard for a word, None for nothing."""
    if word.slot in _KEPT_WHOLE or rng.random() >= severity * _RATES[word.role]:
        return word.text
    draw = rng.random()
    if draw < _DROP and word.role != "slot":
        return None
    near = sounds.near(word.text)
    return rng.choice(near) if draw < _NEAR and near else rng.choice(sounds.words)
