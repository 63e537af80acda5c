"""Numbers as they are spoken to numbers as they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from num2words import num2words

from stepaudio.text.inverse_english import inverse_normalize


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("", ""),
        ("one of them and i have two", "one of them and i have two"),
        ("two hundred and six bones", "206 bones"),
        ("a hundred and one dalmatians", "101 dalmatians"),
        ("twelve thousand five hundred", "12,500"),
        ("two million three hundred thousand four hundred and two", "2,300,402"),
        ("nineteen eighty four and twenty twenty four", "1984 and 2024"),
        ("nineteen oh five", "1905"),
        ("eighteen hundred", "1800"),
        ("call five five five one two three oh", "call 5551230"),
        ("three point one four percent", "3.14%"),
        ("five percent of ninety degrees", "5% of 90°"),
        ("twenty five dollars and ten cents", "$25.10"),
        ("ten euros and fifty people", "€10 and 50 people"),
        ("the twenty first century", "the 21st century"),
        ("the twelfth of the second", "the 12th of the second"),
        ("on march third nineteen ninety nine", "on march 3 1999"),
        ("you may first go and then you may two", "you may first go and then you may two"),
        ("at nine fifteen p m", "at 9:15 p.m."),
        ("six a m at nine oh five", "6 a.m. at 9:05"),
        ("seven o'clock", "7 o'clock"),
        ("point hundred thousand and oh a", "point hundred thousand and oh a"),
    ],
)
def test_written_form(spoken, written):
    assert inverse_normalize(spoken) == written


@given(st.integers(10, 10**12))
def test_every_number(number):
    spoken = num2words(number).replace("-", " ").replace(",", "")
    assert inverse_normalize(spoken).replace(",", "") == str(number)


WORDS = "one two ten twenty thirty hundred thousand million and a oh point percent dollars cents"
WORDS += " may first third twentieth at p m a o'clock cat"


@given(st.lists(st.sampled_from(WORDS.split()), max_size=12))
def test_nothing_makes_it_fail_and_other_words_stay(words):
    written = inverse_normalize(" ".join(words))
    assert written.split().count("cat") == words.count("cat")
    assert bool(written) is bool(words)
