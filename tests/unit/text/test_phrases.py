"""Phrases in a sequence: what they are worth, and what a search is given meanwhile."""

import numpy as np
import pytest

from stepaudio.text.phrases import NO_PHRASE, PhraseAutomaton

NEW, YORK, TIMES, ODD = 10, 11, 12, 13
VALUES = {NEW: 1.0, YORK: 2.0, TIMES: 4.0}


@pytest.fixture(scope="module")
def automaton():
    return PhraseAutomaton.build([[NEW, YORK], [NEW, YORK, TIMES], [TIMES]], VALUES)


@pytest.mark.parametrize(
    ("sequence", "value"),
    [
        ([], 0),
        ([NEW], 0),
        ([NEW, ODD], 0),
        ([NEW, YORK], 3),
        ([ODD, NEW, NEW, YORK, ODD], 3),
        ([NEW, YORK, NEW, YORK], 6),
        ([TIMES, ODD, TIMES], 8),
        ([YORK], 0),
        ([NEW, YORK, TIMES], 7),
    ],
)
def test_only_whole_phrases_count(automaton, sequence, value):
    assert automaton.score(sequence) == pytest.approx(value)


def test_a_phrase_that_has_begun_counts_until_it_breaks_off(automaton):
    first = automaton.columns[NEW]
    state = int(automaton.following[NO_PHRASE, first])
    assert automaton.gains[NO_PHRASE, first] == 1
    assert automaton.gains[state, 0] == -1
    assert automaton.following[state, 0] == NO_PHRASE


def test_the_beginning_of_a_phrase_inside_of_another_is_not_lost():
    found = PhraseAutomaton.build([[1, 2, 3], [2, 4]], dict.fromkeys((1, 2, 3, 4), 1.0))
    assert found.score([1, 2, 4]) == 2


def test_without_phrases_nothing_is_worth_anything():
    nothing = PhraseAutomaton.build([[]], {})
    assert nothing.score([1, 2, 3]) == 0
    assert np.array_equal(nothing.column_of(5), np.zeros(5))
