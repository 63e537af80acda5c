"""Hotwords: words and phrases that a recogniser shall expect, such as names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepaudio.errors import ConfigError
from stepaudio.text.latin import to_latin
from stepaudio.text.letter_to_sound import LetterToSound
from stepaudio.text.lexicon import Phones
from stepaudio.text.ngram import NUM_RESERVED
from stepaudio.text.normalize import get_normalizer
from stepaudio.text.phrases import PhraseAutomaton
from stepaudio.text.word_model import WordModel

MAX_HOTWORDS = 1000
MAX_HOTWORD_LENGTH = 100  # characters
MAX_STRENGTH = 5.0
_MAX_FILE_BYTES = 1 << 20
_SEPARATORS = re.compile(r"[,;\n\r\uff0c\uff1b\u3001]")
_COMMENT = "#"
_MAX_INITIALS = 5

# What a hotword adds to the score of a search over words, in natural logarithms.
_WORD_BONUS = 3.0
_PHONE_BONUS = 0.5  # a long word is not heard by accident
_NEW_WORD_BONUS = 3.0  # the decoder finds its spelling strange
_NEW_WORD_LOG_PROB = -10.0  # as a word that a novel has a few times


@dataclass(frozen=True)
class Hotwords:
    """What shall be expected, and how firmly.

    Attributes:
        phrases: as they were given, each once; none: nothing in particular.
        strength: 0 to 5; 1 suits clear speech, more finds more of them, also where they were not
            said.
    """

    phrases: tuple[str, ...] = ()
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise ConfigError(
                f"hotwords: the strength must lie between 0 and {MAX_STRENGTH:g}, "
                f"got {self.strength:g}"
            )
        if len(self.phrases) > MAX_HOTWORDS:
            raise ConfigError(
                f"hotwords: {len(self.phrases)} are too many, at most {MAX_HOTWORDS} are possible"
            )
        for phrase in self.phrases:
            if len(phrase) > MAX_HOTWORD_LENGTH:
                raise ConfigError(
                    f"hotwords: {phrase[:30]!r}...: longer than {MAX_HOTWORD_LENGTH} characters; "
                    "separate hotwords by commas or lines"
                )

    def __bool__(self) -> bool:
        return bool(self.phrases) and self.strength > 0

    @classmethod
    def parse(cls, given: str | Iterable[str] | Hotwords | None, strength: float = 1.0) -> Hotwords:
        """Take hotwords in any form.

        Args:
            given: a list, or a text in which commas, semicolons or line ends separate them.
            strength: see the class.

        Raises:
            ConfigError: there are too many, or one is too long.
        """
        if isinstance(given, Hotwords):
            return given
        texts = [given] if isinstance(given, str) else list(given or ())
        phrases = (" ".join(part.split()) for text in texts for part in _SEPARATORS.split(text))
        return cls(tuple(dict.fromkeys(filter(None, phrases))), strength)

    @classmethod
    def read(cls, path: str | Path, strength: float = 1.0) -> Hotwords:
        """Read a text file: a hotword a line, or separated by commas; lines with # are comments.

        Raises:
            ConfigError: it cannot be read, is not a text, or see `parse`.
        """
        try:
            with open(path, "rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
            if len(data) > _MAX_FILE_BYTES:
                raise ConfigError(f"{path}: larger than 1 MiB; this is no list of hotwords")
            text = data.decode("utf-8-sig")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"{path}: the hotwords cannot be read: {reason}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: the hotwords are no UTF-8 text") from error
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(_COMMENT)]
        try:
            return cls.parse(lines, strength)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


@dataclass(frozen=True)
class WordHotwords:
    """Hotwords ready for a search over words.

    Attributes:
        words: the model, with the words that it did not know.
        wanted: the phrases in ids of these words.
    """

    words: WordModel
    wanted: PhraseAutomaton

    @classmethod
    def prepare(cls, hotwords: Hotwords, words: WordModel, sounds: LetterToSound) -> WordHotwords:
        """Give unknown words pronunciations and all words a bonus.

        Args:
            hotwords: what to expect.
            words: known words.
            sounds: pronounces the others.

        Raises:
            ConfigError: a hotword has no Latin letters or digits.
        """
        spoken = [spoken_words(phrase) for phrase in hotwords.phrases]
        if not all(spoken):
            silent = hotwords.phrases[spoken.index([])]
            raise ConfigError(f"hotwords: {silent!r} has no letters that this model can hear")
        initials = {
            part.lower(): _spelled(part.lower(), sounds)
            for phrase in hotwords.phrases
            for part in phrase.split()
            if part.isupper() and part.isascii() and part.isalpha() and len(part) <= _MAX_INITIALS
        }
        rows = {word: row for row, word in enumerate(words.words)}
        ways: dict[str, Sequence[Phones]] = {}
        for word in dict.fromkeys(word for phrase in spoken for word in phrase):
            ways[word] = (*initials.get(word, ()), *sounds.pronunciations(word))
        new = {word: said for word, said in ways.items() if word not in rows and said}
        words = words.with_words(new, _NEW_WORD_LOG_PROB)
        rows |= {word: row for row, word in enumerate(words.words[-len(new) :], len(rows)) if new}
        values = {
            NUM_RESERVED + rows[word]: hotwords.strength
            * (_WORD_BONUS + _NEW_WORD_BONUS * (word in new) + _PHONE_BONUS * len(said[0]))
            for word, said in ways.items()
            if word in rows
        }
        phrases = [
            [NUM_RESERVED + rows[word] for word in phrase]
            for phrase in spoken
            if all(word in rows for word in phrase)
        ]
        return cls(words, PhraseAutomaton.build(phrases, values))


def spoken_words(phrase: str) -> list[str]:
    """The words of a hotword as an English recogniser writes them; none without any letter."""
    spoken = get_normalizer("en").written_to_spoken(to_latin(phrase)).lower()
    words = re.sub(r"[^a-z' ]", " ", spoken).split()
    return [word for word in words if word.strip("'")]


def _spelled(word: str, sounds: LetterToSound) -> tuple[Phones, ...]:
    """The names of the letters, one behind the other."""
    names = [sounds.pronunciations(letter) for letter in word]
    if not all(names):
        return ()
    return (tuple(phone for ways in names for phone in ways[-1]),)
