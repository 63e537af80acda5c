import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.text.wer import (
    ErrorRate,
    alignment_report,
    character_error_rate,
    word_error_rate,
)

SENTENCES = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(" ".join)


def test_counts() -> None:
    rate = word_error_rate(["the cat sat", "yes no", "ok"], ["the bat sat down", "yes", "ok"])
    assert rate == ErrorRate(words=6, substitutions=1, deletions=1, insertions=1)
    assert rate.errors == 3 and rate.rate == 0.5


def test_empty_sides() -> None:
    assert word_error_rate([], []) == ErrorRate()
    assert word_error_rate([], []).rate == 0.0
    assert word_error_rate([""], [""]).rate == 0.0
    assert word_error_rate(["", " "], ["uh huh", ""]) == ErrorRate(insertions=2)
    assert word_error_rate(["one two"], [""]) == ErrorRate(words=2, deletions=2)
    mixed = word_error_rate(["", "one"], ["uh", "one"])
    assert mixed == ErrorRate(words=1, insertions=1)


def test_lengths_must_agree() -> None:
    for count in (word_error_rate, character_error_rate, alignment_report):
        with pytest.raises(ValueError, match="as many"):
            count(["a"], [])


def test_characters() -> None:
    rate = character_error_rate(["今天 天气"], ["今天天汽"])
    assert (rate.words, rate.errors) == (4, 1)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), max_size=5))
def test_rates_add_up(pairs: list[tuple[str, str]]) -> None:
    together = word_error_rate([ref for ref, _ in pairs], [hyp for _, hyp in pairs])
    apart = sum((word_error_rate([ref], [hyp]) for ref, hyp in pairs), ErrorRate())
    assert together == apart
    assert together.words == sum(len(ref.split()) for ref, _ in pairs)


@given(SENTENCES)
def test_no_errors_against_itself(text: str) -> None:
    assert word_error_rate([text], [text]).errors == 0


def test_alignment_report_shows_errors_worst_first() -> None:
    report = alignment_report(["the cat sat", "fine", ""], ["the bat sat", "fine", "noise"])
    assert report.index("3: 1 of 0 words") < report.index("1: 1 of 3 words (33.3 %)")
    assert "REF: the cat sat\nHYP: the bat sat" in report
    assert "fine" not in report
    assert alignment_report(["a"], ["a"], names=["x"]) == ""
