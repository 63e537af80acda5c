"""Any text to what is generated one after the other: sentences of words that can be spoken."""

from __future__ import annotations

import html
import re
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from stepaudio.text.latin import to_latin
from stepaudio.text.normalize import get_normalizer
from stepaudio.text.sentences import split_clauses, split_sentences
from stepaudio.text.spoken_forms import read_written_forms

Pause = Literal["clause", "sentence", "paragraph"]

_BREAK = re.compile(r"\n[^\S\n]*\n|\n\s*$|\u2029")
_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|emphasis|h[1-6]|i|img|li|ol|p|pre|prosody|s|span|speak|strong|sub|sup"
    r"|table|td|th|tr|u|ul|voice)(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>",
    re.IGNORECASE,
)
_HALF_DAY = re.compile(r"\ba m\b")
_WIDE = re.compile(r"[\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")
_LETTERS_OF_A_SYLLABLE = 3  # a character of Chinese takes as long to say as so many letters


@dataclass(frozen=True, kw_only=True)
class SpeechTextOptions:
    """How text is cut.

    Attributes:
        max_letters: longest piece that is generated at once, in letters of spoken words; English
            has about 14 a second. A piece without any comma or conjunction may be half as long
            again.
        max_word_letters: longer words are cut, because nobody can say them.
    """

    max_letters: int = 200
    max_word_letters: int = 32

    def __post_init__(self) -> None:
        if self.max_letters < 1 or self.max_word_letters < 1:
            raise ValueError("max_letters and max_word_letters must be at least 1")

    @property
    def hard_limit(self) -> int:
        """Longest piece that is not cut between any two words."""
        return self.max_letters * 3 // 2


@dataclass(frozen=True)
class Sentence:
    """What is generated at once: a sentence, or a part of a long one.

    Attributes:
        text: what is said, words or as written.
        pause: what ends behind it.
    """

    text: str
    pause: Pause = "sentence"

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the text."""
        return tuple(self.text.split())

    @property
    def num_letters(self) -> int:
        """Length in letters; wide characters count as several."""
        return spoken_length(self.text)


def spoken_length(text: str) -> int:
    """Letters of a text as a measure of how long it takes to say; wide characters count more."""
    letters = "".join(filter(str.isalnum, text))
    return len(letters) + (_LETTERS_OF_A_SYLLABLE - 1) * len(_WIDE.findall(letters))


def spoken_sentences(
    text: str,
    options: SpeechTextOptions = SpeechTextOptions(),
    *,
    known: Container[str] = (),
) -> list[Sentence]:
    """Cut English text, and spell out everything as it is said.

    Args:
        text: anything; signs that cannot be said are left out.
        options: how it is cut.
        known: lower-case words that can be said as they are.

    Returns:
        Sentences of lower-case words of the letters a to z and the apostrophe, in order, without
        loss or repetition; none if nothing can be said.

    >>> [s.text for s in spoken_sentences("Dr. Lee paid $5 at 9 a.m. Then left.")]
    ['doctor lee paid five dollars at nine ay m', 'then left']
    """
    found: list[Sentence] = []
    for written in split_sentences(_valid(text)):
        forms = read_written_forms(to_latin(written), known)

        def length(piece: str) -> int:
            return spoken_length(_normalised(piece))

        limits = options.max_letters, options.hard_limit
        pieces = split_clauses(forms, limits[0], length, hard_limit=limits[1])
        said = [words for piece in pieces if (words := _sayable(piece, options))]
        found += _with_pauses(said, written)
    return found


def written_sentences(
    text: str,
    options: SpeechTextOptions = SpeechTextOptions(),
) -> list[Sentence]:
    """Cut a text of any language and leave it as written, for models that read it themselves.

    Returns:
        Sentences in order, without loss or repetition; those without letter or digit are left
        out.
    """
    found: list[Sentence] = []
    for written in split_sentences(_valid(text)):
        limits = options.max_letters, options.hard_limit
        pieces = split_clauses(written, limits[0], spoken_length, hard_limit=limits[1])
        kept = [" ".join(piece.split()) for piece in pieces if spoken_length(piece)]
        found += _with_pauses(kept, written)
    return found


def _valid(text: str) -> str:
    """The text without marks of web pages, and without what no encoding can hold."""
    return html.unescape(_TAG.sub(" ", text)).encode("utf-8", "ignore").decode("utf-8")


def _with_pauses(pieces: list[str], written: str) -> list[Sentence]:
    last: Pause = "paragraph" if _BREAK.search(written) else "sentence"
    return [
        Sentence(piece, "clause" if index < len(pieces) - 1 else last)
        for index, piece in enumerate(pieces)
    ]


@lru_cache(maxsize=1024)
def _normalised(text: str) -> str:
    return get_normalizer("en").written_to_spoken(text)


def _sayable(piece: str, options: SpeechTextOptions) -> str:
    """Words of a piece, letters a to z only; morning and afternoon are letters, not an article."""
    words = _HALF_DAY.sub("ay m", _normalised(piece)).split()
    size = options.max_word_letters
    cut = (word[at : at + size] for word in words for at in range(0, len(word), size))
    return " ".join(cut)
