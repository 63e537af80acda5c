"""What the synthesizers say: sentences, transcripts of the corpora, words, digits and numbers."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from stepaudio.errors import StepAudioError
from stepaudio_recipes.spoken_form import digits_in_words, number_in_words, spoken_form
from stepaudio_recipes.texts import TEXT_SOURCES, Sentence

# Shares of the utterances, not of the hours: words and digits are short.
KIND_SHARES = {
    "sentences": 0.57,
    "transcripts": 0.15,
    "words": 0.16,
    "digits": 0.06,
    "numbers": 0.06,
}
_MAX_DIGITS = 8
_MAX_WORDS = 3
_MAX_ATTEMPTS = 100

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True)
class Utterance:
    """One text to speak, in the training form, with the source and licence of the text."""

    text: str
    source: str
    license: str

    @classmethod
    def of(cls, sentence: Sentence) -> "Utterance":
        """Make an utterance of a sentence of the text pool."""
        return cls(sentence.text, sentence.source, TEXT_SOURCES[sentence.source].license)


def _digit_string(rng: random.Random) -> str:
    count = rng.randint(1, _MAX_DIGITS)
    words = digits_in_words("".join(rng.choices("0123456789", k=count)))
    return words.replace("zero", "oh") if rng.random() < 0.15 else words


def _count(rng: random.Random) -> str:
    return number_in_words(rng.randrange(10 ** rng.randint(1, 6)))


def _ordinal(rng: random.Random) -> str:
    return f"the {number_in_words(rng.randint(1, 100), 'ordinal')}"


def _date(rng: random.Random) -> str:
    month, day = rng.choice(_MONTHS), number_in_words(rng.randint(1, 31), "ordinal")
    year = number_in_words(rng.randint(1700, 2060), "year")
    return rng.choice(
        (
            f"{month} {day}",
            f"{month} {day} {year}",
            f"the {day} of {month} {year}",
            f"{rng.choice(_WEEKDAYS)} {month} {day}",
            f"in {year}",
        )
    )


def _time_of_day(rng: random.Random) -> str:
    return f"{rng.randint(1, 12)}:{rng.randrange(0, 60, 5):02d}{rng.choice(('', ' am', ' pm'))}"


def _price(rng: random.Random) -> str:
    cents = f".{rng.randrange(100):02d}" if rng.random() < 0.5 else ""
    return f"${rng.randrange(1, 10 ** rng.randint(1, 4))}{cents}"


def _decimal(rng: random.Random) -> str:
    return f"{rng.randrange(1000)}.{rng.randrange(1000)}{rng.choice(('', '%'))}"


_NUMBER_KINDS: tuple[Callable[[random.Random], str], ...] = (
    _count, _count, _ordinal, _date, _date, _time_of_day, _price, _decimal,
)  # fmt: skip


@dataclass(frozen=True)
class TextSampler:
    """Draws what to speak; never a held-out sentence.

    Attributes:
        sentences: Sentences in the order in which they are used up.
        transcripts: Transcripts of the training rows of the real corpora.
        words: Words of the pronunciation dictionary.
        held_out: Sentences that may not be spoken.
    """

    sentences: tuple[Sentence, ...]
    transcripts: tuple[Utterance, ...]
    words: tuple[str, ...]
    held_out: frozenset[str]

    def fingerprint(self) -> str:
        """Return a digest of all texts that can be drawn."""
        digest = hashlib.sha256(repr(KIND_SHARES).encode())
        for item in (self.sentences, self.transcripts, self.words, sorted(self.held_out)):
            digest.update(repr(item).encode())
        return digest.hexdigest()

    def draw(self, rng: random.Random, index: int) -> Utterance:
        """Draw the text of utterance `index`; sentences are taken in their order by index."""
        kinds = {
            kind: share
            for kind, share in KIND_SHARES.items()
            if getattr(self, kind, True)  # digits and numbers need no material
        }
        kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
        if kind == "sentences":
            return Utterance.of(self.sentences[index % len(self.sentences)])
        if kind == "transcripts":
            return rng.choice(self.transcripts)
        license_ = "BSD-2-Clause" if kind == "words" else "generated"
        for _ in range(_MAX_ATTEMPTS):
            text = self._generate(rng, kind)
            if text and text not in self.held_out:
                return Utterance(text, kind, license_)
        raise StepAudioError(f"kind {kind!r}: every text drawn is held out; hold out fewer")

    def _generate(self, rng: random.Random, kind: str) -> str | None:
        if kind == "words":
            return " ".join(rng.choices(self.words, k=rng.randint(1, _MAX_WORDS)))
        if kind == "digits":
            return _digit_string(rng)
        return spoken_form(rng.choice(_NUMBER_KINDS)(rng))
