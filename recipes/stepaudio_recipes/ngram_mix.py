"""Back-off language models mixed, and cut to a size.

Mixing is linear interpolation of the probabilities of every n-gram that either model stores.
Cutting leaves out the n-grams without which a text would lose least (Seymore and Rosenfeld,
"Scalable backoff language models", 1996).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stepaudio.text.ngram import END, START, UNKNOWN, Contexts, Floats, Ints, NgramModel, find_keys
from stepaudio_recipes.sphinx_lm import SphinxTrigrams

_NO_PAIR = -1
_RAREST = -20.0  # log-probability of words that a model does not know
PAIR_BYTES, TRIPLE_BYTES = 6, 3  # in `NgramModel.arrays`


def in_vocabulary(
    trigrams: SphinxTrigrams, ids: Mapping[str, int], vocab_size: int, largest_word: int
) -> NgramModel:
    """The model over other ids; n-grams with other words, or ids above `largest_word`, are lost."""
    edges = {"<s>": START, "</s>": END, "<unk>": UNKNOWN}
    new = np.array([edges.get(word, ids.get(word, -1)) for word in trigrams.words])
    known = new >= 0
    unigram = np.full(vocab_size, _RAREST, np.float32)
    backoff = np.zeros(vocab_size, np.float32)
    unigram[new[known]] = trigrams.unigram[known]
    backoff[new[known]] = trigrams.unigram_backoff[known]

    pairs = new[trigrams.pairs]
    kept = ((pairs >= 0) & (pairs <= largest_word)).all(axis=1)
    keys = pairs[kept, 0] * vocab_size + pairs[kept, 1]
    order = np.argsort(keys)
    pair_keys = keys[order]

    triples = new[trigrams.triples]
    inside = ((triples >= 0) & (triples <= largest_word)).all(axis=1)
    triples, values = triples[inside], trigrams.triple[inside]
    owner, found = find_keys(pair_keys, triples[:, 0] * vocab_size + triples[:, 1])
    triple_keys = owner[found] * vocab_size + triples[found, 2]
    sorted3 = np.argsort(triple_keys)
    return NgramModel(
        unigram=unigram,
        unigram_backoff=backoff,
        pair_keys=pair_keys,
        pair=trigrams.pair[kept][order].astype(np.float32),
        pair_backoff=trigrams.pair_backoff[kept][order].astype(np.float32),
        triple_keys=triple_keys[sorted3],
        triple=values[found][sorted3].astype(np.float32),
    )


def mix(first: NgramModel, second: NgramModel, weight: float) -> NgramModel:
    """Interpolate two models of one vocabulary.

    Args:
        first: gets 1 - `weight`.
        second: gets `weight`.
        weight: between 0 and 1.
    """
    size = first.vocab_size
    unigram = _interpolated(first.unigram, second.unigram, weight)
    pair_keys = np.union1d(first.pair_keys, second.pair_keys)
    left, right = np.divmod(pair_keys, size)
    alone = Contexts(np.full(len(left), _NO_PAIR), left)
    pair = _interpolated(first.score(alone, right), second.score(alone, right), weight)
    whole = np.union1d(_whole_triples(first), _whole_triples(second))
    start, last = np.divmod(whole, size)
    triple = _interpolated(
        _score_triples(first, start, last), _score_triples(second, start, last), weight
    )
    owner = np.searchsorted(pair_keys, start)
    mixed = NgramModel(
        unigram=unigram,
        unigram_backoff=np.zeros(size, np.float32),
        pair_keys=pair_keys,
        pair=pair,
        pair_backoff=np.zeros(len(pair_keys), np.float32),
        triple_keys=owner * size + last,
        triple=triple,
    )
    return normalised(mixed)


def cut(model: NgramModel, num_bytes: int) -> NgramModel:
    """Keep the n-grams that matter most, in so many bytes of `NgramModel.arrays`."""
    size = model.vocab_size
    first, second = np.divmod(model.pair_keys, size)
    lower = model.unigram_backoff[first] + model.unigram[second]
    reach = _history(model.unigram)[first] + model.pair
    gain = np.exp(reach) * (model.pair - lower)
    owner, last = np.divmod(model.triple_keys, size)
    behind = Contexts(np.full(len(owner), _NO_PAIR), second[owner])
    lower3 = model.pair_backoff[owner] + model.score(behind, last)
    gain3 = np.exp(reach[owner] + model.triple) * (model.triple - lower3)
    worth = np.concatenate([gain / PAIR_BYTES, gain3 / TRIPLE_BYTES])
    costs = np.repeat([PAIR_BYTES, TRIPLE_BYTES], [len(gain), len(gain3)])
    order = np.argsort(-worth, kind="stable")
    chosen = np.zeros(len(worth), bool)
    chosen[order[: int(np.searchsorted(np.cumsum(costs[order]), num_bytes))]] = True
    keep, keep3 = chosen[: len(gain)], chosen[len(gain) :]
    # A triple needs its pair. The pairs that come back this way cost what the last ones gain.
    keep[owner[keep3]] = True
    place = np.cumsum(keep) - 1
    smaller = replace(
        model,
        pair_keys=model.pair_keys[keep],
        pair=model.pair[keep],
        pair_backoff=model.pair_backoff[keep],
        triple_keys=place[owner[keep3]] * size + last[keep3],
        triple=model.triple[keep3],
    )
    return normalised(smaller)


def normalised(model: NgramModel) -> NgramModel:
    """The model with the back-off weights that make every distribution sum to one."""
    size = model.vocab_size
    first, second = np.divmod(model.pair_keys, size)
    told = _summed(first, model.pair, size)
    lower = _summed(first, model.unigram[second], size)
    model = replace(model, unigram_backoff=_left_over(told, lower))
    owner, last = np.divmod(model.triple_keys, size)
    behind = Contexts(np.full(len(owner), _NO_PAIR), second[owner])
    told = _summed(owner, model.triple, len(first))
    lower = _summed(owner, model.score(behind, last), len(first))
    return replace(model, pair_backoff=_left_over(told, lower))


def _summed(owners: Ints, logs: Floats, num_owners: int) -> NDArray[np.float64]:
    """Sum of the probabilities that belong to each owner."""
    sums = np.bincount(owners, np.exp(logs.astype(np.float64)), num_owners)
    return sums.astype(np.float64)


def _left_over(told: NDArray[np.float64], lower: NDArray[np.float64]) -> Floats:
    share = np.maximum(1 - told, 1e-6) / np.maximum(1 - lower, 1e-6)
    return np.log(np.maximum(share, 1e-6)).astype(np.float32)


def _history(unigram: Floats) -> Floats:
    """Log-probability of words as histories: a sentence begins as often as it ends."""
    history = unigram.copy()
    history[START] = unigram[END]
    return history


def _interpolated(first: Floats, second: Floats, weight: float) -> Floats:
    with np.errstate(divide="ignore"):
        logs = np.logaddexp(first + np.log1p(-weight), second + np.log(weight))
    return logs.astype(np.float32)


def _whole_triples(model: NgramModel) -> Ints:
    """(first * V + second) * V + third of every triple."""
    owner, last = np.divmod(model.triple_keys, model.vocab_size)
    return model.pair_keys[owner] * model.vocab_size + last


def _score_triples(model: NgramModel, start: Ints, last: Ints) -> Floats:
    rows, found = find_keys(model.pair_keys, start)
    contexts = Contexts(np.where(found, rows, _NO_PAIR), start % model.vocab_size)
    return model.score(contexts, last)
