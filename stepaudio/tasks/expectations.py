"""Decoding that expects hotwords: a search that knows them, or a decoder that leans to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from stepaudio.generation.bias import PhraseBias
from stepaudio.generation.generator import Generator
from stepaudio.generation.two_pass import TwoPassDecoder, TwoPassOptions
from stepaudio.text.hotwords import Hotwords, WordHotwords, spoken_words
from stepaudio.text.letter_to_sound import LetterToSound
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.word_model import WordModel

NO_HOTWORDS = Hotwords()

# Added to the logits of tokens that begin a hotword, and of those that continue it.
_FIRST_TOKEN_BIAS = 0.0  # a decoder that begins a name by mistake goes on with it
_FURTHER_TOKEN_BIAS = 4.0
_MAX_KEPT = 2  # sets of hotwords that stay prepared; one takes as much memory as the word model
_T = TypeVar("_T")


class Expectations:
    """Prepares hotwords for one model, the latest sets of them once.

    Args:
        generator: the decoder.
        tokenizer: its tokenizer.
        words: the word model, if there is one.
        options: settings of the search over words.
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: TextTokenizer,
        words: WordModel | None,
        options: TwoPassOptions,
    ) -> None:
        self._generator = generator
        self._tokenizer = tokenizer
        self._words = words
        self._options = options
        self._two_pass: dict[Hotwords, TwoPassDecoder] = {}
        self._biases: dict[Hotwords, PhraseBias] = {}

    @cached_property
    def _sounds(self) -> LetterToSound:
        assert self._words is not None
        return LetterToSound(self._words)

    def two_pass(self, hotwords: Hotwords) -> TwoPassDecoder:
        """Decoder in two passes whose search knows and prefers the hotwords.

        Raises:
            ConfigError: one of them has no letters.
        """
        return _kept(self._two_pass, hotwords, self._new_two_pass)

    def bias(self, hotwords: Hotwords) -> PhraseBias:
        """What makes a decoder that writes by itself lean to the hotwords."""
        return _kept(self._biases, hotwords, self._new_bias)

    def _new_two_pass(self, hotwords: Hotwords) -> TwoPassDecoder:
        assert self._words is not None
        known = WordHotwords.prepare(hotwords, self._words, self._sounds)
        return TwoPassDecoder(
            self._generator,
            known.words,
            self._tokenizer.encode,
            self._options,
            wanted=known.wanted,
        )

    def _new_bias(self, hotwords: Hotwords) -> PhraseBias:
        # As given for models that write capitals, as spoken for those that do not; at the
        # beginning of a text and behind a space.
        forms = dict.fromkeys(
            form
            for phrase in hotwords.phrases
            for form in (phrase, " ".join(spoken_words(phrase)))
            if form
        )
        encoded = [self._tokenizer.encode(lead + form) for form in forms for lead in ("", " ")]
        return PhraseBias(
            encoded,
            first=hotwords.strength * _FIRST_TOKEN_BIAS,
            further=hotwords.strength * _FURTHER_TOKEN_BIAS,
        )


def _kept(kept: dict[Hotwords, _T], key: Hotwords, make: Callable[[Hotwords], _T]) -> _T:
    """The value of a key, made if it is not among the latest ones."""
    value = kept.pop(key, None)
    if value is None:
        value = make(key)
    kept[key] = value
    while len(kept) > _MAX_KEPT:
        kept.pop(next(iter(kept)))
    return value
