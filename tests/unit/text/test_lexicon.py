import numpy as np
import pytest

from stepaudio.text.lexicon import WordLexicon
from stepaudio.text.ngram import NUM_RESERVED, train_ngrams
from stepaudio.text.word_model import WordModel

PHONES = ("AH", "B", "IH", "S", "T", "Z")


@pytest.fixture(scope="module")
def lexicon() -> WordLexicon:
    spoken = {
        "a": [["AH"]],
        "bats": [["B", "AH", "T", "S"], ["B", "IH", "T", "S"]],
        "busb": [["B", "AH", "S", "B"]],
        "mute": [],
        "tabt": [["T", "AH", "B", "T"]],
    }
    every = [phones for ways in spoken.values() for phones in ways]
    words = WordModel(
        tuple(spoken),
        PHONES,
        np.array([len(ways) for ways in spoken.values()], np.uint8),
        np.array([len(phones) for phones in every], np.uint8),
        np.array([1 + PHONES.index(p) for phones in every for p in phones], np.uint8),
        train_ngrams([[3, 4]] * 3, NUM_RESERVED + len(spoken), largest_word=9),
    )
    return WordLexicon(words)


@pytest.mark.parametrize(
    ("word", "ways"),
    [
        ("a", [("AH",)]),
        ("bats", [("B", "AH", "T", "S"), ("B", "IH", "T", "S")]),
        ("bats's", [("B", "AH", "T", "S", "IH", "Z"), ("B", "IH", "T", "S", "IH", "Z")]),
        ("tabt's", [("T", "AH", "B", "T", "S")]),
        ("busbs", [("B", "AH", "S", "B", "Z")]),
        ("a's", [("AH", "Z")]),
        ("tabtbats", [("T", "AH", "B", "T", "B", "AH", "T", "S")]),
        ("mute", []),
        ("'s", []),
        ("as", []),
        ("xyzzy", []),
        ("", []),
    ],
)
def test_pronunciations(lexicon: WordLexicon, word: str, ways: list[tuple[str, ...]]) -> None:
    assert list(lexicon.pronunciations(word)) == ways
    assert (word in lexicon) is bool(ways)
