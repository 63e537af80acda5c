"""What questions are about: numbers, durations, names, places, words and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from stepaudio_recipes.dialogue_world.phrases import read_list
from stepaudio_recipes.spoken_form import number_in_words
from stepaudio_recipes.texts import seeded_unit

Split = Literal["train", "held_out"]

HELD_OUT_SHARE = 0.1
MAX_SUMMAND = 20
MAX_FACTOR = 12
DAY_PARTS = ("morning", "afternoon", "evening")

# Numbers by how they are said, and by the words that sound the same.
NUMBERS = {number_in_words(value): value for value in range(1000)} | {
    "to": 2, "too": 2, "for": 4, "fore": 4, "ate": 8, "won": 1, "a hundred": 100,
}  # fmt: skip
_UNITS = ("second", "minute", "hour")
_SET_DURATIONS = ("half an hour", "an hour", "a minute", "half a minute", "one and a half hours")


def say(value: int) -> str:
    """A number in words, negative ones with "minus"."""
    return number_in_words(value) if value >= 0 else f"minus {number_in_words(-value)}"


def in_split(split: Split, kind: str, value: str) -> bool:
    """Whether a slot's value belongs to a split; a tenth is held out."""
    held_out = seeded_unit(0, "held out", kind, value) < HELD_OUT_SHARE
    return held_out == (split == "held_out")


def durations() -> tuple[str, ...]:
    """Every duration that a timer is asked for."""
    counted = [
        f"{say(count)} {unit}{'s' if count > 1 else ''}"
        for unit, most in zip(_UNITS, (60, 60, 24), strict=True)
        for count in range(1, most + 1)
    ]
    return (*counted, *_SET_DURATIONS)


@dataclass(frozen=True)
class Slots:
    """The values of one split.

    Attributes:
        names: first names.
        places: cities and countries.
        professions: what a persona does.
        words: words to spell.
        durations: of timers.
        sentences: sentences to repeat, without those of the other split.
        foreign: sentences from outside of the world.
    """

    names: tuple[str, ...]
    places: tuple[str, ...]
    professions: tuple[str, ...]
    words: tuple[str, ...]
    durations: tuple[str, ...]
    sentences: tuple[str, ...]
    foreign: tuple[str, ...]

    @classmethod
    def of_split(cls, split: Split, sentences: Sequence[str], foreign: Sequence[str]) -> Slots:
        """Take the values of a split out of all of them."""

        def kept(kind: str, values: Sequence[str]) -> tuple[str, ...]:
            return tuple(value for value in values if in_split(split, kind, value))

        names = read_list("names.txt")
        words = dict.fromkeys((*read_list("words.txt"), *names))
        return cls(
            names=kept("name", names),
            places=kept("place", read_list("places.txt")),
            professions=kept("profession", read_list("professions.txt")),
            words=kept("word", tuple(words)),
            durations=kept("duration", durations()),
            sentences=kept("sentence", sentences),
            foreign=kept("foreign", foreign),
        )


def summands(rng: Random) -> tuple[int, int]:
    """Two numbers of a sum or difference, most of them small."""
    most = rng.choices((10, MAX_SUMMAND, 100), (0.4, 0.4, 0.2))[0]
    return rng.randint(0, most), rng.randint(0, most)


def factors(rng: Random) -> tuple[int, int]:
    """Two numbers of a product."""
    most = rng.choices((10, MAX_FACTOR, 30), (0.5, 0.3, 0.2))[0]
    return rng.randint(0, most), rng.randint(0, most)


def parse_number(text: str) -> int | None:
    """Value of a number as it was heard; None: it is none."""
    return NUMBERS.get(text)
