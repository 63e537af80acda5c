"""Pronunciation of words, in the form of the CMU pronouncing dictionary."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from stepaudio.errors import ConfigError

# ARPAbet without stress, in the order of their CTC indices from 1.
PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH",
    "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
_INDEX = {phone: index for index, phone in enumerate(PHONES, 1)}
_HISSING = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}

Pronunciation = tuple[str, ...]


class Lexicon:
    """Pronunciations of words."""

    def __init__(self, entries: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Take the pronunciations (phones of `PHONES`) of every word, the usual one first."""
        self._entries = entries

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Read a gzip dictionary in the format of cmudict.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        try:
            lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        except (OSError, EOFError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; the prepare recipe makes it") from error
        entries: dict[str, list[Pronunciation]] = {}
        for line in lines:
            entry, *phones = line.split("#")[0].split()
            word, _, _ = entry.partition("(")  # "read(2)" is another way to say "read"
            pronunciation = tuple(phone.rstrip("012") for phone in phones)
            known = entries.setdefault(word, [])
            if pronunciation not in known:
                known.append(pronunciation)
        return cls(entries)

    @property
    def words(self) -> tuple[str, ...]:
        """All words of the dictionary."""
        return tuple(self._entries)

    def pronunciations(self, word: str) -> tuple[Pronunciation, ...]:
        """Ways to say a word, none where it is unknown; a possessive follows its noun."""
        if word in self._entries:
            return tuple(map(tuple, self._entries[word]))
        noun = word.removesuffix("'s")
        if noun == word:
            return ()
        return tuple((*stem, *_possessive(stem[-1])) for stem in self.pronunciations(noun))

    def targets(self, text: str) -> list[int]:
        """CTC indices of a text's phones, said the usual way; empty where a word is unknown."""
        indices: list[int] = []
        for word in text.split():
            known = self.pronunciations(word)
            if not known:
                return []
            indices += [_INDEX[phone] for phone in known[0]]
        return indices


def phone_indices(pronunciation: Sequence[str]) -> list[int]:
    """CTC indices of phones."""
    return [_INDEX[phone] for phone in pronunciation]


def _possessive(last_phone: str) -> Pronunciation:
    if last_phone in _HISSING:
        return ("IH", "Z")
    return ("S",) if last_phone in _VOICELESS else ("Z",)
