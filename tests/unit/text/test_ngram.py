"""The language model: probabilities that sum to one, words that follow what they have followed."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from stepaudio.text.ngram import (
    END,
    NUM_RESERVED,
    START,
    NgramModel,
    _from_gaps,
    _gaps,
    train_ngrams,
)

VOCAB = NUM_RESERVED + 5
SENTENCES = st.lists(st.lists(st.integers(NUM_RESERVED, VOCAB - 1), max_size=6), min_size=1)
CAT, SAT, DOG, RAN, COW = range(NUM_RESERVED, VOCAB)


def log_prob(model: NgramModel, history: list[int], word: int) -> float:
    context = model.start()
    for previous in history:
        context = model.extend(context, np.array([previous]))
    return float(model.score(context, np.array([word]))[0])


@hypothesis.given(SENTENCES, st.lists(st.integers(NUM_RESERVED, VOCAB - 1), max_size=3))
@hypothesis.settings(max_examples=60)
def test_what_may_follow_any_history_sums_to_one(sentences, history):
    for min_count in (1, 2):
        model = train_ngrams(sentences, VOCAB, min_count=min_count, largest_word=VOCAB)
        everything = [w for w in range(VOCAB) if w != START]
        total = sum(np.exp(log_prob(model, history, word)) for word in everything)
        assert total == pytest.approx(1, abs=1e-4)


@pytest.fixture
def model():
    sentences = [[CAT, SAT]] * 6 + [[DOG, RAN]] * 6 + [[DOG, SAT], [COW, RAN, RAN]]
    return train_ngrams(sentences, VOCAB, min_count=2, largest_word=VOCAB)


def test_words_follow_what_they_have_followed(model):
    assert log_prob(model, [CAT], SAT) > log_prob(model, [CAT], RAN) + 1
    assert log_prob(model, [DOG], RAN) > log_prob(model, [DOG], SAT) + 1
    assert log_prob(model, [CAT, SAT], END) > log_prob(model, [CAT], END) + 1
    assert model.sentence_score([DOG, RAN]) > model.sentence_score([DOG, CAT]) + 1


def test_a_sentence_scores_the_sum_of_its_words(model):
    words = [CAT, SAT, END]
    expected = sum(log_prob(model, words[:n], word) for n, word in enumerate(words))
    assert model.sentence_score([CAT, SAT]) == pytest.approx(expected)


def test_rare_pairs_are_not_stored_but_have_a_probability(model):
    stored = set(zip(*np.divmod(model.pair_keys, VOCAB), strict=True))
    assert (CAT, SAT) in stored and (DOG, SAT) not in stored
    assert np.isfinite(log_prob(model, [DOG], SAT))


def test_words_above_the_largest_are_only_unigrams():
    sentences = [[CAT, COW], [DOG, COW], [CAT, SAT]] * 3
    model = train_ngrams(sentences, VOCAB, min_count=1, largest_word=RAN)
    assert COW not in model.pair_keys % VOCAB and SAT in model.pair_keys % VOCAB
    assert log_prob(model, [CAT], COW) > log_prob(model, [CAT], RAN) + 1


def test_arrays_keep_the_model(model):
    copy = NgramModel.from_arrays(model.arrays())
    for words in ([CAT, SAT], [DOG, RAN, COW], []):
        expected = model.sentence_score(words)
        assert copy.sentence_score(words) == pytest.approx(expected, abs=0.1)


@hypothesis.given(
    st.lists(st.lists(st.integers(0, 65_535), unique=True, max_size=6).map(sorted), max_size=8)
)
def test_gaps_come_back_as_words(groups: list[list[int]]) -> None:
    words = np.array([word for group in groups for word in group], np.int64)
    counts = np.array([len(group) for group in groups], np.int64)
    owners = np.repeat(np.arange(len(groups)), counts)
    gaps = _gaps(words, owners)
    assert len(gaps) == len(words) and (gaps >= 0).all() and (gaps <= 65_535).all()
    assert np.array_equal(_from_gaps(gaps.astype(np.uint16), counts), words)
