import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.text.sentences import split_clauses, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Lee left. Why? It was 5.30 p.m. by then.",
         ["Dr. Lee left.", "Why?", "It was 5.30 p.m. by then."]),
        ("J. R. R. Tolkien met U.S. officials in the U.S. The end came at 5 p.m. He left.",
         ["J. R. R. Tolkien met U.S. officials in the U.S.", "The end came at 5 p.m.", "He left."]),
        ('"Why?" she asked. "Go!" He went... and came back. No!',
         ['"Why?" she asked.', '"Go!"', "He went... and came back.", "No!"]),
        ("你好。你是谁？“很好！”谢谢", ["你好。", "你是谁？", "“很好！”", "谢谢"]),
        ("Title\n\nText here\n- one\n- two\n1. First. 2. Second.",
         ["Title", "Text here", "- one", "- two", "1. First.", "2. Second."]),
        ("The end.The next. Visit foo.com now, etc. The end",
         ["The end.", "The next.", "Visit foo.com now, etc.", "The end"]),
        ("No. 5 is alive. I said no. Then I left. See vol. III, fig. 2.",
         ["No. 5 is alive.", "I said no.", "Then I left.", "See vol. III, fig. 2."]),
        ("He saw the sun. Then Mr. Smith, e.g. John, left on Mon. 3 Feb. 2020.",
         ["He saw the sun.", "Then Mr. Smith, e.g. John, left on Mon. 3 Feb. 2020."]),
        ("A line\nthat is wrapped. Another", ["A line\nthat is wrapped.", "Another"]),
        ("Wait… what? Really?! Yes", ["Wait… what?", "Really?!", "Yes"]),
        ("", []),
        (" ", [" "]),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[str]) -> None:
    pieces = split_sentences(text)
    assert [piece.strip() or piece for piece in pieces] == sentences
    assert "".join(pieces) == text


def test_clauses_are_cut_at_the_best_places() -> None:
    text = "the quick brown fox, it jumped over it; then the dog ran away because it was tired"
    assert split_clauses(text, 45, len) == [
        "the quick brown fox, it jumped over it;",
        " then the dog ran away because it was tired",
    ]
    assert split_clauses("one two three four, five six", 20, len) == [
        "one two three four,",
        " five six",
    ]
    assert split_clauses("he ran fast and the dog barked", 20, len) == [
        "he ran fast",
        " and the dog barked",
    ]
    assert split_clauses("abcdefgh", 2, len) == ["ab", "cd", "ef", "gh"]
    assert split_clauses("x", 1, lambda piece: 100) == ["x"]


def test_words_of_one_clause_stay_together_up_to_the_hard_limit() -> None:
    text = "the quick brown fox jumps, over the lazy dog it jumps"
    assert split_clauses(text, 20, len, hard_limit=30) == [
        "the quick brown fox jumps,",
        " over the lazy dog it jumps",
    ]
    assert len(split_clauses(text, 20, len, hard_limit=25)) == 4


TEXTS = st.lists(
    st.one_of(
        st.sampled_from(list(".!?…;:,() \n\"'-Aa1。！，")),
        st.sampled_from(["Mr. ", "etc. ", " and ", "e.g. ", "p.m. ", "No. ", "\n\n", "word "]),
        st.characters(),
    ),
    max_size=60,
).map("".join)


@given(TEXTS)
def test_sentences_are_a_partition(text: str) -> None:
    assert "".join(split_sentences(text)) == text
    assert all(split_sentences(text))


@given(TEXTS, st.integers(1, 30))
def test_clauses_are_a_partition_within_the_limit(text: str, limit: int) -> None:
    pieces = split_clauses(text, limit, len)
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)
