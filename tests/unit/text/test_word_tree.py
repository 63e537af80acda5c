"""The tree of pronunciations against the list that it was made of."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from stepaudio.text.word_tree import ROOT, WordTree

PRONUNCIATIONS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1)


def build(pronunciations, words=None):
    flat = [phone for phones in pronunciations for phone in phones]
    words = range(len(pronunciations)) if words is None else words
    lens = [len(phones) for phones in pronunciations]
    return WordTree.build(*(np.array(list(v), np.int64) for v in (words, flat, lens)), 4)


def walk(tree, phones):
    node = ROOT
    for phone in phones:
        node = tree.children[node, phone]
    return node


@hypothesis.given(PRONUNCIATIONS)
def test_every_word_is_at_the_end_of_its_phones(pronunciations):
    tree = build(pronunciations)
    nodes = np.array([walk(tree, phones) for phones in pronunciations])
    assert (nodes != ROOT).all()
    rows, words = tree.words_at(nodes)
    for row, phones in enumerate(pronunciations):
        alike = {word for word, other in enumerate(pronunciations) if other == phones}
        assert set(words[rows == row].tolist()) == alike
    prefixes = {tuple(phones[:n]) for phones in pronunciations for n in range(len(phones) + 1)}
    assert len(tree.children) == len(prefixes)


@hypothesis.given(PRONUNCIATIONS, st.randoms(use_true_random=False))
def test_best_below_looks_at_all_continuations(pronunciations, random):
    tree = build(pronunciations)
    scores = np.array([random.uniform(-9, 0) for _ in pronunciations], np.float32)
    best = tree.best_below(scores)
    for phones in pronunciations:
        for end in range(len(phones) + 1):
            continued = [
                s for s, p in zip(scores, pronunciations, strict=True) if p[:end] == phones[:end]
            ]
            assert best[walk(tree, phones[:end])] == max(continued)


def test_a_word_may_be_said_in_two_ways():
    tree = build([[1, 2], [3]], words=[7, 7])
    assert tree.words_at(np.array([walk(tree, [3]), walk(tree, [1, 2])]))[1].tolist() == [7, 7]
