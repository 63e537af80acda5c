"""The pronouncing dictionary."""

import gzip

import pytest

from stepaudio.errors import ConfigError
from stepaudio_recipes.lexicon import PHONES, Lexicon, phone_indices

DICTIONARY = """cat K AE1 T
judge JH AH1 JH
live L AY1 V
live(2) L IH1 V
live(3) L AY0 V
d'artagnan D AH0 R T AE1 NG Y AH0 N # foreign french
dog D AO1 G
"""


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "dictionary.gz"
    path.write_bytes(gzip.compress(DICTIONARY.encode()))
    return Lexicon.read(path)


@pytest.mark.parametrize(
    ("word", "pronunciations"),
    [
        ("live", ["L AY V", "L IH V"]),  # without stress, and then one of two is a repetition
        ("d'artagnan", ["D AH R T AE NG Y AH N"]),  # without the comment
        ("cat's", ["K AE T S"]),
        ("dog's", ["D AO G Z"]),
        ("judge's", ["JH AH JH IH Z"]),
        ("zzzq", []),
        ("zzzq's", []),
    ],
)
def test_words_have_their_pronunciations(lexicon, word, pronunciations):
    assert [" ".join(phones) for phones in lexicon.pronunciations(word)] == pronunciations


def test_variants_are_no_words(lexicon):
    assert lexicon.words == ("cat", "judge", "live", "d'artagnan", "dog")


def test_targets_are_indices_from_one(lexicon):
    names = [PHONES[index - 1] for index in lexicon.targets("cat dog")]
    assert names == ["K", "AE", "T", "D", "AO", "G"]
    assert phone_indices(names) == lexicon.targets("cat dog")


def test_a_text_with_an_unknown_word_has_no_targets(lexicon):
    assert lexicon.targets("cat zzzq") == []


def test_a_missing_dictionary_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="the prepare recipe makes it"):
        Lexicon.read(tmp_path / "absent.gz")
