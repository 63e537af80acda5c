"""The search over words against all transcripts scored one by one."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stepaudio.generation.word_search import WordSearch, WordSearchOptions
from stepaudio.text.ngram import NUM_RESERVED, train_ngrams
from stepaudio.text.phrases import PhraseAutomaton
from stepaudio.text.word_tree import WordTree

# "to", "two" (sounds the same), "tool", "at" and "a", in four phones.
SPOKEN = [[1, 2], [1, 2], [1, 2, 3], [4, 1], [4]]
IDS = range(NUM_RESERVED, NUM_RESERVED + len(SPOKEN))
EXHAUSTIVE = WordSearchOptions(
    language_weight=0.7, word_reward=0.4, num_hypotheses=100_000, margin=1e9, phone_margin=1e9,
    num_results=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def language():
    to, two, tool, at, a = IDS
    sentences = [[a, tool], [at, two], [to, a, tool], [at, a], [two, to], [to]] * 2
    return train_ngrams(sentences, IDS.stop, min_count=1, largest_word=IDS.stop)


@pytest.fixture(scope="module")
def tree():
    flat = [phone for phones in SPOKEN for phone in phones]
    lens = [len(phones) for phones in SPOKEN]
    return WordTree.build(*(np.array(list(v), np.int64) for v in (IDS, flat, lens)), 4)


def posteriors(seed: int, num_frames: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2.5 * torch.randn(num_frames, 5, generator=generator)).log_softmax(-1)


def phone_score(log_probs: torch.Tensor, words: tuple[int, ...]) -> float:
    phones = [phone for word in words for phone in SPOKEN[word - NUM_RESERVED]]
    lens = torch.tensor([len(log_probs)]), torch.tensor([len(phones)])
    targets = torch.tensor([phones], dtype=torch.long)
    return -float(F.ctc_loss(log_probs[:, None].double(), targets, *lens, reduction="sum"))


@pytest.mark.parametrize("seed", range(6))
def test_an_exhaustive_search_finds_the_best_of_all_transcripts(tree, language, seed):
    log_probs = posteriors(seed)
    scored = []
    for count in range(5):
        for words in itertools.product(IDS, repeat=count):
            phones, likely = phone_score(log_probs, words), language.sentence_score(words)
            scored.append((phones + 0.7 * likely + 0.4 * count, words, phones, likely))
    scored.sort(reverse=True)
    found = WordSearch(tree, language, EXHAUSTIVE)(log_probs.numpy())
    assert [hypothesis.words for hypothesis in found[:5]] == [words for _, words, *_ in scored[:5]]
    for hypothesis, (_, _, phones, likely) in zip(found[:5], scored, strict=False):
        assert hypothesis.phones == pytest.approx(phones, abs=1e-4)
        assert hypothesis.language == pytest.approx(likely, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_wanted_phrases_are_weighed_exactly(tree, language, seed):
    _, two, tool, _, a = IDS
    wanted = PhraseAutomaton.build([[a, two], [tool]], {a: 1.5, two: 2.0, tool: 2.5})
    log_probs = posteriors(seed)
    scored = []
    for count in range(5):
        for words in itertools.product(IDS, repeat=count):
            likely, bonus = language.sentence_score(words), wanted.score(words)
            total = phone_score(log_probs, words) + 0.7 * likely + 0.4 * count + bonus
            scored.append((total, words, bonus))
    scored.sort(reverse=True)
    found = WordSearch(tree, language, EXHAUSTIVE, wanted)(log_probs.numpy())
    assert [hypothesis.words for hypothesis in found[:5]] == [words for _, words, _ in scored[:5]]
    for hypothesis, (_, _, bonus) in zip(found[:5], scored, strict=False):
        assert hypothesis.bonus == pytest.approx(bonus)
    assert any(bonus for _, _, bonus in scored[:5])


def spoken(phones: list[int], sure: float = 0.97) -> np.ndarray:
    """Posteriors of phones with a blank behind each."""
    frames = np.full((2 * len(phones), 5), (1 - sure) / 4, np.float32)
    frames[np.arange(0, len(frames), 2), phones] = sure
    frames[1::2, 0] = sure
    return np.log(frames)


def test_clear_speech_is_found_by_a_narrow_search(tree, language):
    search = WordSearch(tree, language, WordSearchOptions(num_hypotheses=20))
    best = search(spoken([4, 1, 2, 3]))[0]
    _, _, tool, _, a = IDS
    assert best.words == (a, tool)


def test_a_repeated_phone_needs_a_blank_between(tree, language):
    search = WordSearch(tree, language, WordSearchOptions(language_weight=0.7))
    _, _, _, _, a = IDS
    held = np.repeat(spoken([4])[:1], 3, axis=0)
    assert search(held)[0].words == (a,)
    assert search(spoken([4, 4]))[0].words == (a, a)


def test_silence_has_no_words(tree, language):
    silence = np.full((20, 5), np.log(0.001), np.float32)
    silence[:, 0] = np.log(0.996)
    assert WordSearch(tree, language)(silence)[0].words == ()
    assert WordSearch(tree, language)(silence[:0])[0].words == ()


def test_what_no_word_begins_with_is_no_word(tree, language):
    found = WordSearch(tree, language)(spoken([3, 3, 3, 3], sure=0.9999))
    assert [hypothesis.words for hypothesis in found] == [()]


def test_a_search_in_portions_is_the_same_search(tree, language):
    search = WordSearch(tree, language)
    log_probs = posteriors(3, num_frames=40).numpy()
    state = search.start()
    for first in range(0, 40, 7):
        state = search.advance(state, log_probs[first : first + 7])
    assert search.finish(state) == search(log_probs)


@pytest.mark.parametrize("seed", range(5))
def test_certain_words_stay_whatever_follows(tree, language, seed):
    search = WordSearch(tree, language)
    state, certain = search.start(), ()
    for first in range(0, 60, 6):
        state = search.advance(state, posteriors(100 * seed + first, 6).numpy())
        state = search.settle(state, 0.05, older_doubt=0.4, num_recent=2)
        now = search.certain_words(state)
        assert now[: len(certain)] == certain
        assert search.likely_words(state)[: len(now)] == now
        certain = now
    found = search.finish(state)
    assert certain and found
    assert all(hypothesis.words[: len(certain)] == certain for hypothesis in found)


def test_nothing_is_settled_without_doubt(tree, language):
    search = WordSearch(tree, language)
    state = search.advance(search.start(), posteriors(1, 30).numpy())
    settled = search.settle(state, 0.0, older_doubt=0.0, num_recent=0)
    assert len(settled.beam.history) == len(state.beam.history)
