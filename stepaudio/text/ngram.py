"""Trigram language model over words: interpolated Kneser-Ney, stored in back-off form.

Source: Chen and Goodman, "An empirical study of smoothing techniques for language modeling",
1999. Every order has one discount; n-grams seen once may be left out, their mass goes to the
lower order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

START, END, UNKNOWN = 0, 1, 2
"""Ids of the sentence's edges and of every word outside the vocabulary; words come behind."""
NUM_RESERVED = 3
_NO_CONTEXT = -1


@dataclass(frozen=True)
class Contexts:
    """What N histories end in, as far as the model tells them apart.

    Attributes:
        pair: [N] index of the last two words among the model's pairs, or -1.
        word: [N] last word.
    """

    pair: Ints
    word: Ints

    def __getitem__(self, rows: Ints) -> Contexts:
        """Some of the histories."""
        return Contexts(self.pair[rows], self.word[rows])


@dataclass(frozen=True)
class NgramModel:
    """Natural log-probabilities of words behind up to two others.

    Attributes:
        unigram: [V] log-probability.
        unigram_backoff: [V] log-weight of the unigrams behind a word.
        pair_keys: [P] sorted, `first * V + second` of every stored pair.
        pair: [P] log-probability of the pair's second word.
        pair_backoff: [P] log-weight of the pairs behind two words.
        triple_keys: [T] sorted, `index of the pair * V + third`.
        triple: [T] log-probability of the third word.
    """

    unigram: Floats
    unigram_backoff: Floats
    pair_keys: Ints
    pair: Floats
    pair_backoff: Floats
    triple_keys: Ints
    triple: Floats

    @property
    def vocab_size(self) -> int:
        """Number of words, the reserved ones included."""
        return len(self.unigram)

    def start(self) -> Contexts:
        """The history at the beginning of a sentence."""
        return Contexts(np.array([_NO_CONTEXT]), np.array([START]))

    def score(self, contexts: Contexts, words: Ints) -> Floats:
        """Log-probability [N] of each history's next word."""
        rows, found = find_keys(self.pair_keys, contexts.word * self.vocab_size + words)
        lower = self.unigram_backoff[contexts.word] + self.unigram[words]
        lower = np.where(found, _at(self.pair, rows), lower)
        known = contexts.pair != _NO_CONTEXT
        keys = np.where(known, contexts.pair * self.vocab_size + words, -1)
        rows, found = find_keys(self.triple_keys, keys)
        backed_off = lower + np.where(known, _at(self.pair_backoff, contexts.pair), 0)
        return np.where(found, _at(self.triple, rows), backed_off).astype(np.float32)

    def extend(self, contexts: Contexts, words: Ints) -> Contexts:
        """The histories with one word more."""
        rows, found = find_keys(self.pair_keys, contexts.word * self.vocab_size + words)
        return Contexts(np.where(found, rows, _NO_CONTEXT), words)

    def with_words(self, log_probs: Floats) -> NgramModel:
        """The model with so many more words behind the known ones, each as likely anywhere.

        Args:
            log_probs: [new words] log-probability of each; those of the others stay as they are.
        """
        old, new = self.vocab_size, self.vocab_size + len(log_probs)
        first, second = np.divmod(self.pair_keys, old)
        pair, third = np.divmod(self.triple_keys, old)
        return replace(
            self,
            unigram=np.concatenate([self.unigram, log_probs.astype(np.float32)]),
            unigram_backoff=np.pad(self.unigram_backoff, (0, len(log_probs))),
            pair_keys=first * new + second,
            triple_keys=pair * new + third,
        )

    def sentence_score(self, words: Sequence[int]) -> float:
        """Log-probability of a whole sentence, its end included."""
        total, context = 0.0, self.start()
        for word in (*words, END):
            ids = np.array([word])
            total += float(self.score(context, ids)[0])
            context = self.extend(context, ids)
        return total

    def is_consistent(self) -> bool:
        """Whether the arrays have the same sizes and their keys are sorted, as a search needs."""
        return (
            self.unigram.shape == self.unigram_backoff.shape
            and self.pair_keys.shape == self.pair.shape == self.pair_backoff.shape
            and self.triple_keys.shape == self.triple.shape
            and bool((np.diff(self.pair_keys) > 0).all() and (np.diff(self.triple_keys) > 0).all())
            and (self.pair_keys.size == 0 or int(self.pair_keys[-1]) < self.vocab_size**2)
        )

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """The model as compact arrays by name, for a file."""
        first, second = np.divmod(self.pair_keys, self.vocab_size)
        pair_index, third = np.divmod(self.triple_keys, self.vocab_size)
        return {
            "unigram": self.unigram.astype(np.float16),
            "unigram_backoff": self.unigram_backoff.astype(np.float16),
            "pair_counts": np.bincount(first, minlength=self.vocab_size).astype(np.uint16),
            "pair_gaps": _gaps(second, first).astype(np.uint16),
            "pair": _rounded(self.pair),
            "pair_backoff": _rounded(self.pair_backoff),
            "triple_counts": np.bincount(pair_index, minlength=len(first)).astype(np.uint16),
            "triple_gaps": _gaps(third, pair_index).astype(np.uint16),
            "triple": _rounded(self.triple),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> NgramModel:
        """The model that `arrays` wrote.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays do not fit each other.
        """
        vocab_size = len(arrays["unigram"])
        keys = []
        for name in ("pair", "triple"):
            counts = arrays[f"{name}_counts"].astype(np.int64)
            owners = np.repeat(np.arange(len(counts)), counts)
            keys.append(owners * vocab_size + _from_gaps(arrays[f"{name}_gaps"], counts))
        unigram, backoff = (arrays[n].astype(np.float32) for n in ("unigram", "unigram_backoff"))
        values = {name: _log_of(arrays[name]) for name in ("pair", "pair_backoff", "triple")}
        return cls(unigram, backoff, pair_keys=keys[0], triple_keys=keys[1], **values)


_STEP = 1 / 4  # of stored logarithms
_LARGEST = 2.0  # back-off weights may exceed one


def _gaps(words: Ints, owners: Ints) -> Ints:
    """What each word is above the one before it of the same owner: small numbers, mostly."""
    before = np.concatenate([[0], words[:-1]])
    is_first = np.concatenate([[True], owners[1:] != owners[:-1]])
    return words - np.where(is_first[: len(words)], 0, before[: len(words)])


def _from_gaps(gaps: NDArray[np.generic], counts: Ints) -> Ints:
    """The words again; `counts` says how many each owner has."""
    total = np.concatenate([[0], np.cumsum(gaps.astype(np.int64))])
    starts = np.cumsum(counts) - counts
    return total[1:] - np.repeat(total[starts], counts)


def _rounded(logs: Floats) -> NDArray[np.uint8]:
    """Logarithms in steps of 1/4 downwards from 2, one byte each."""
    return np.clip(np.round((_LARGEST - logs) / _STEP), 0, 255).astype(np.uint8)


def _log_of(stored: NDArray[np.generic]) -> Floats:
    if stored.dtype != np.uint8:
        raise ValueError("logarithms are not stored in steps: make the word model again")
    return (_LARGEST - stored.astype(np.float32) * _STEP).astype(np.float32)


def find_keys(keys: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where numbers are, or would be, among sorted keys, and whether they are there."""
    rows = np.searchsorted(keys, wanted)
    inside = rows < len(keys)
    return rows, inside & (_at(keys, rows) == wanted)


def _at(values: NDArray[np.generic], rows: Ints) -> NDArray[np.generic]:
    """Values at rows, of which those out of range give anything."""
    if not len(values):
        return np.zeros(len(rows), values.dtype)
    return values[np.minimum(rows, len(values) - 1)]


def train_ngrams(
    sentences: Iterable[Sequence[int]], vocab_size: int, *, min_count: int = 2, largest_word: int
) -> NgramModel:
    """Estimate a model.

    Args:
        sentences: ids of the words of each sentence, without its edges.
        vocab_size: number of ids.
        min_count: triples and pairs seen less often are not stored.
        largest_word: pairs and triples with an id above it are not stored.
    """
    flat: list[int] = []
    starts: list[int] = []
    for sentence in sentences:
        starts.append(len(flat))
        flat += [START, *sentence, END]
    ids = np.array(flat, dtype=np.int64)
    is_start = np.zeros(len(ids), bool)
    is_start[np.array(starts, dtype=np.int64)] = True
    # A pair or triple may begin at a sentence's edge but not span it.
    pairs = (ids[:-1] * vocab_size + ids[1:])[~is_start[1:]]
    triples = ((ids[:-2] * vocab_size + ids[1:-1]) * vocab_size + ids[2:])[
        ~is_start[1:-1] & ~is_start[2:]
    ]
    triple_keys, triple_counts = np.unique(triples, return_counts=True)
    pair_keys, pair_counts = np.unique(pairs, return_counts=True)
    # Below the highest order, what counts is how many words stand before an n-gram.
    continued, preceding = np.unique(triple_keys % vocab_size**2, return_counts=True)
    weights = pair_counts.copy()  # a pair at a sentence's start has nothing before it
    inner = pair_keys // vocab_size != START
    weights[inner] = 0
    weights[np.searchsorted(pair_keys, continued)] = preceding
    follows = np.bincount(pair_keys % vocab_size, minlength=vocab_size)

    unigram = _discounted_unigrams(follows)
    kept = pair_counts >= min_count
    kept &= (pair_keys // vocab_size <= largest_word) & (pair_keys % vocab_size <= largest_word)
    share, left_over = _discounted(weights, pair_keys // vocab_size, vocab_size, kept)
    first, second = pair_keys[kept] // vocab_size, pair_keys[kept] % vocab_size
    pair = share[kept] + left_over[first] * unigram[second]

    owner = np.searchsorted(pair_keys[kept], triple_keys // vocab_size)
    inside = owner < kept.sum()
    owned = inside & (_at(pair_keys[kept], owner) == triple_keys // vocab_size)
    tail, tail_found = find_keys(pair_keys[kept], triple_keys % vocab_size**2)
    kept3 = (triple_counts >= min_count) & owned & tail_found
    owner = np.where(owned, owner, 0)
    share3, left_over3 = _discounted(
        np.where(owned, triple_counts, 0), owner, int(kept.sum()), kept3
    )
    triple = share3[kept3] + left_over3[owner[kept3]] * pair[tail[kept3]]
    return NgramModel(
        unigram=_log(unigram),
        unigram_backoff=_log(left_over),
        pair_keys=pair_keys[kept],
        pair=_log(pair),
        pair_backoff=_log(left_over3),
        triple_keys=owner[kept3] * vocab_size + triple_keys[kept3] % vocab_size,
        triple=_log(triple),
    )


def _log(values: NDArray[np.float64]) -> Floats:
    return np.log(np.maximum(values, 1e-30)).astype(np.float32)


def _discount(counts: Ints) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once else 0.5


def _discounted_unigrams(counts: Ints) -> NDArray[np.float64]:
    discount = _discount(counts)
    share = np.maximum(counts - discount, 0) / counts.sum()
    open_to = np.ones(len(counts), bool)
    open_to[START] = False
    return share + (1 - share.sum()) * open_to / open_to.sum()


def _discounted(
    counts: Ints, owners: Ints, num_owners: int, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of every n-gram behind its context, and what each context leaves to lower orders."""
    totals = np.bincount(owners, counts, num_owners)
    share = np.maximum(counts - _discount(counts[counts > 0]), 0) / np.maximum(totals[owners], 1)
    share = np.where(kept, share, 0)
    return share, np.maximum(1 - np.bincount(owners, share, num_owners), 0)
