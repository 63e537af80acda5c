"""Mixed and cut language models stay distributions; the trie is read as pocketsphinx does."""

import numpy as np
import pytest

from stepaudio.errors import ConfigError
from stepaudio.text.ngram import END, NUM_RESERVED, START, Contexts, NgramModel, train_ngrams
from stepaudio_recipes.ngram_mix import cut, in_vocabulary, mix, normalised
from stepaudio_recipes.sphinx_lm import SphinxTrigrams, model_file, read_sphinx_trigrams

VOCAB = 12


def trained(seed: int) -> NgramModel:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(VOCAB - NUM_RESERVED))
    words = np.arange(NUM_RESERVED, VOCAB)
    sentences = [rng.choice(words, size=rng.integers(1, 8), p=weights).tolist() for _ in range(80)]
    return train_ngrams(sentences, VOCAB, min_count=1, largest_word=VOCAB)


def contexts(model: NgramModel) -> list[Contexts]:
    """The start, every word, and every stored pair."""
    one = [Contexts(np.array([-1]), np.array([word])) for word in range(VOCAB) if word != END]
    pairs = [
        Contexts(np.array([row]), np.array([key % VOCAB]))
        for row, key in enumerate(model.pair_keys.tolist())
        if key % VOCAB != END
    ]
    return [model.start(), *one, *pairs]


def total(model: NgramModel, context: Contexts) -> float:
    words = np.array([word for word in range(VOCAB) if word != START])
    repeated = Contexts(np.repeat(context.pair, len(words)), np.repeat(context.word, len(words)))
    return float(np.exp(model.score(repeated, words).astype(np.float64)).sum())


def test_a_mixture_is_a_distribution_in_every_context():
    mixed = mix(trained(1), trained(2), 0.3)
    assert mixed.is_consistent()
    for context in contexts(mixed):
        assert total(mixed, context) == pytest.approx(1, abs=2e-3)


def test_a_mixture_is_the_weighted_sum():
    first, second = trained(1), trained(2)
    mixed = mix(first, second, 0.3)
    row = int(np.argmax(mixed.pair))
    left, right = divmod(int(mixed.pair_keys[row]), VOCAB)
    context = Contexts(np.array([-1]), np.array([left]))
    word = np.array([right])
    parts = [float(np.exp(model.score(context, word)[0])) for model in (first, second)]
    expected = 0.7 * parts[0] + 0.3 * parts[1]
    assert float(np.exp(mixed.score(context, word)[0])) == pytest.approx(expected, rel=1e-4)


def test_a_smaller_model_is_a_distribution_and_says_less():
    whole = mix(trained(1), trained(2), 0.5)
    small = cut(whole, 300)
    assert 0 < len(small.pair) < len(whole.pair)
    assert len(small.triple) < len(whole.triple)
    assert small.is_consistent()
    for context in contexts(small):
        assert total(small, context) == pytest.approx(1, abs=2e-3)


def test_nothing_is_cut_where_there_is_room():
    whole = normalised(trained(3))
    same = cut(whole, 1_000_000)
    assert np.array_equal(same.pair_keys, whole.pair_keys)
    assert np.array_equal(same.triple_keys, whole.triple_keys)


def test_words_outside_the_vocabulary_take_their_ngrams_with_them():
    trigrams = SphinxTrigrams(
        words=("<s>", "</s>", "cat", "zebra"),
        unigram=np.log([0.1, 0.3, 0.4, 0.2]),
        unigram_backoff=np.zeros(4),
        pairs=np.array([[0, 2], [2, 3], [2, 1]]),
        pair=np.log([0.5, 0.5, 0.25]),
        pair_backoff=np.zeros(3),
        triples=np.array([[0, 2, 1], [0, 2, 3]]),
        triple=np.log([0.75, 0.2]),
    )
    model = in_vocabulary(trigrams, {"cat": 5}, VOCAB, VOCAB)
    assert len(model.pair) == 2
    assert len(model.triple) == 1
    context = model.extend(model.start(), np.array([5]))
    assert float(np.exp(model.score(context, np.array([END]))[0])) == pytest.approx(0.75)


def test_the_trie_holds_what_pocketsphinx_says():
    pocketsphinx = pytest.importorskip("pocketsphinx")
    trigrams = read_sphinx_trigrams(model_file())
    logs = pocketsphinx.LogMath()
    peer = pocketsphinx.NGramModel(pocketsphinx.Config(), logs, str(model_file()))
    rng = np.random.default_rng(0)
    cases = ((trigrams.pairs, trigrams.pair), (trigrams.triples, trigrams.triple))
    for ngrams, values in cases:
        for row in rng.integers(len(ngrams), size=30).tolist():
            # pocketsphinx wants the word first and then its history, backwards.
            said = [trigrams.words[word] for word in ngrams[row].tolist()]
            expected = logs.exp(peer.prob(said[::-1]))
            assert np.exp(values[row]) == pytest.approx(expected, rel=2e-3)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"Trie Language Model\x03" + bytes(64))
    with pytest.raises(ConfigError, match=r"model\.bin"):
        read_sphinx_trigrams(path)
