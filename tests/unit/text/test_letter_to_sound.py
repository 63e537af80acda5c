"""Pronunciations of unknown words by analogy."""

import pytest

from stepaudio.catalog import embedded_folder
from stepaudio.text.letter_to_sound import LetterToSound, align_letters
from stepaudio.text.word_model import WordModel


@pytest.fixture(scope="module")
def sounds():
    return LetterToSound(WordModel.load(embedded_folder("nano")))


@pytest.mark.parametrize(
    ("word", "phones", "chunks"),
    [
        ("cat", "K AE T", ["K", "AE", "T"]),
        ("box", "B AA K S", ["B", "AA", "K S"]),
        ("wright", "R AY T", ["", "R", "AY", "", "", "T"]),
        ("phone", "F OW N", ["F", "", "OW", "N", ""]),
        ("o'neil", "OW N IY L", ["OW", "", "N", "IY", "", "L"]),
    ],
)
def test_letters_stand_for_the_phones_that_they_can(word, phones, chunks):
    found = [" ".join(chunk) for chunk in align_letters(word, tuple(phones.split()))]
    assert found[0] == chunks[0] and found[-1] == chunks[-1]
    assert " ".join(filter(None, found)) == phones
    assert len(found) == len(word)


def test_an_abbreviation_has_more_phones_than_letters_can_stand_for():
    assert align_letters("w", ("D", "AH", "B", "AH", "L", "Y", "UW"))[0][0] == "D"


def test_known_words_are_said_as_the_dictionary_says(sounds):
    assert sounds.pronunciations("cat") == (("K", "AE", "T"),)


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("stepfun", "S T EH P F AH N"),
        ("okonkwo", "OW K AA NG K W OW"),
        ("zelensky", "Z EH L AH N S K IY"),
        ("priyanka", "P R IY AE NG K AH"),
    ],
)
def test_names_that_no_dictionary_has(sounds, word, phones):
    ways = sounds.pronunciations(word)
    assert tuple(phones.split()) in ways
    assert len(ways) <= 3


def test_what_has_no_letters_is_not_said(sounds):
    assert sounds.pronunciations("'") == ()
    assert sounds.pronunciations("") == ()
