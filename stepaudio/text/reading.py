"""Readings: how words are said, as the prompt of a small speaking model.

A large model learns from hours without number how letters sound. A small one is told: its prompt
has the phones of every word, and the letters of a word only where no dictionary knows it.
A reading is a string, words separated by spaces: ``"HH-AH-L-OW W-ER-L-D (xyzzy)"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import phone_token_name


class Pronouncer(Protocol):
    """Pronunciations of words."""

    def pronunciations(self, word: str) -> Sequence[Sequence[str]]:
        """Ways to say a word, each the names of its phones, the usual one first; or none."""


def read_words(words: Sequence[str], pronouncer: Pronouncer) -> str:
    """Reading of normalised words: phones, or letters in parentheses where none are known."""
    spoken = []
    for word in words:
        known = pronouncer.pronunciations(word)
        spoken.append("-".join(known[0]) if known else f"({word})")
    return " ".join(spoken)


def reading_instruction(task: str, *, voice: str | None = None, style: str = "") -> str:
    """System message of a reading: the task, the voice if it has a name, and how to speak."""
    named = [task, f"as {voice}" if voice else "", style]
    return " ".join(part for part in named if part)


def reading_ids(tokenizer: TextTokenizer, reading: str) -> list[int]:
    """Tokens of a reading: one for each phone, one for each byte of a spelled word.

    Raises:
        ValueError: the vocabulary lacks a phone of the reading.
    """
    gap = tokenizer.encode(" ")[-1]
    ids: list[int] = []
    for index, word in enumerate(reading.split()):
        ids += [gap] * (index > 0)
        if word.startswith("("):
            ids += _letter_ids(tokenizer, word[1:-1])
        else:
            names = (phone_token_name(phone) for phone in word.split("-"))
            ids += [tokenizer.encode_special(name) for name in names]
    return ids


def _letter_ids(tokenizer: TextTokenizer, word: str) -> list[int]:
    """One token a letter, each as at the beginning of a word, so that no merge hides it."""
    return [token for letter in word for token in tokenizer.encode(letter)]
