"""Trigrams of the language model that pip ``pocketsphinx`` brings along (Carnegie Mellon, BSD).

The file is a trie of reversed n-grams like KenLM's: bit-packed records sorted by word, each with
the place where its children begin, and probabilities as indices into tables.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepaudio.errors import ConfigError

_MAGIC = b"Trie Language Model"
_TABLE = 1 << 16  # probabilities and back-off weights are 16-bit indices
_LOG_BASE = float(np.log(1.0001))  # of the stored logarithms

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SphinxTrigrams:
    """N-grams as they are stored; logarithms are natural.

    Attributes:
        words: [V].
        unigram: [V] log-probability.
        unigram_backoff: [V].
        pairs: [P, 2] words in the order in which they are said.
        pair: [P] log-probability of the second word.
        pair_backoff: [P].
        triples: [T, 3].
        triple: [T] log-probability of the third word.
    """

    words: tuple[str, ...]
    unigram: Floats
    unigram_backoff: Floats
    pairs: Ints
    pair: Floats
    pair_backoff: Floats
    triples: Ints
    triple: Floats


def model_file() -> Path:
    """Path of the language model in the installed package.

    Raises:
        ConfigError: pocketsphinx is not installed.
    """
    try:
        import pocketsphinx
    except ImportError as error:
        raise ConfigError("pocketsphinx is missing: pip install 'stepaudio[eval]'") from error
    return Path(pocketsphinx.get_model_path("en-us/en-us.lm.bin"))


def read_sphinx_trigrams(path: Path) -> SphinxTrigrams:
    """Read a trie of order 3 with 16-bit tables.

    Raises:
        ConfigError: it is another kind of file, or damaged.
    """
    try:
        data = path.read_bytes()
        return _parse(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise ConfigError(f"{path}: not a trigram model of pocketsphinx: {error}") from error


def _parse(data: bytes) -> SphinxTrigrams:
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC)] != 3:
        raise ValueError("wrong kind or order")
    offset = len(_MAGIC) + 1
    counts = struct.unpack_from("<3I", data, offset)
    offset += 12 + 4  # the counts, and the kind of the tables
    tables = np.frombuffer(data, "<f4", 3 * _TABLE, offset).astype(np.float64) * _LOG_BASE
    offset += 12 * _TABLE
    record = np.dtype([("prob", "<f4"), ("backoff", "<f4"), ("next", "<u4")])
    unigrams = np.frombuffer(data, record, counts[0] + 1, offset)
    offset += record.itemsize * (counts[0] + 1)
    word_bits, next_bits = counts[0].bit_length(), counts[2].bit_length()
    pair_words, pair_values, triples_from, offset = _records(
        data, offset, counts[1], word_bits, 32, next_bits
    )
    triple_words, triple_values, _, offset = _records(data, offset, counts[2], word_bits, 16, 0)
    names = data[offset + 4 :].split(b"\0")[: counts[0]]
    if len(names) != counts[0]:
        raise ValueError("the file ends too early")
    # The trie begins with the last word: the children of a node are the words before it. The last
    # of the counted records may be empty.
    last = _owners(unigrams["next"].astype(np.int64), counts[1])
    size = len(last)
    pairs = np.stack([pair_words[:size], last], axis=1)
    owner = _owners(triples_from[: size + 1], counts[2])
    triples = np.concatenate([triple_words[: len(owner), None], pairs[owner]], axis=1)
    return SphinxTrigrams(
        words=tuple(name.decode("utf-8") for name in names),
        unigram=unigrams["prob"][:-1].astype(np.float64) * _LOG_BASE,
        unigram_backoff=unigrams["backoff"][:-1].astype(np.float64) * _LOG_BASE,
        pairs=pairs,
        pair=tables[pair_values[:size] >> 16],
        pair_backoff=tables[_TABLE:][pair_values[:size] & (_TABLE - 1)],
        triples=triples,
        triple=tables[2 * _TABLE :][triple_values[: len(owner)]],
    )


def _owners(starts: Ints, most: int) -> Ints:
    """Which node each child belongs to; node i has those from starts[i] to starts[i + 1]."""
    if starts[-1] > most or bool((np.diff(starts) < 0).any()):
        raise ValueError("the trie is contradictory")
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _records(
    data: bytes, offset: int, count: int, word_bits: int, value_bits: int, next_bits: int
) -> tuple[Ints, Ints, Ints, int]:
    """Words, values and child places of `count` records and the one that ends them."""
    total = word_bits + value_bits + next_bits
    size = ((1 + count) * total + 7) // 8 + 8
    stored = np.frombuffer(data, np.uint8, size, offset)
    first = np.arange(count + 1, dtype=np.int64) * total
    fields = []
    for bits in (word_bits, value_bits, next_bits):
        fields.append(_bits(stored, first, bits))
        first = first + bits
    return fields[0], fields[1], fields[2], offset + size


def _bits(stored: NDArray[np.uint8], first: Ints, width: int) -> Ints:
    """Little-endian numbers of `width` bits, at most 32, which begin at the bits `first`."""
    found = np.zeros(len(first), np.int64)
    for byte in range(5):
        found |= stored[first // 8 + byte].astype(np.int64) << (8 * byte)
    return (found >> (first % 8)) & ((1 << width) - 1)
