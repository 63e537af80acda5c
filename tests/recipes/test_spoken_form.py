import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio_recipes.spoken_form import digits_in_words, split_sentences, spoken_form


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Author of the danger trail, Philip Steels, etc.",
         "author of the danger trail philip steels etc"),
        ("He said \u201cdon\u2019t\u201d \u2014 twice.", "he said don't twice"),
        ("Mr. Smith re-entered.", "mister smith re entered"),
        ("It costs $12.50 or $5 million or $15M.",
         "it costs twelve dollars and fifty cents or five million dollars or fifteen million"
         " dollars"),
        ("One is $1, one is \u00a33.01.", "one is one dollar one is three pounds and one penny"),
        ("At 11:30 am, 9:05 or 5pm.", "at eleven thirty a m nine oh five or five p m"),
        ("Meet at 12:00.", "meet at twelve o'clock"),
        ("On March 3, 2019.", "on march third twenty nineteen"),
        ("The 1990s and the 80s.", "the nineteen nineties and the eighties"),
        ("Call 408-247-8880.", "call four zero eight two four seven eight eight eight zero"),
        ("3.14, 1,234 and 50%.",
         "three point one four one thousand two hundred and thirty four and fifty percent"),
        ("The 21st B12.", "the twenty first b twelve"),
        ("Symphony No. 9 is #1 on 4 May, ok?",
         "symphony number nine is number one on fourth may okay"),
        ("I dont think thats right.", "i don't think that's right"),
        ("Agent 007.", "agent zero zero seven"),
        ("The NFL and NASA in the U.S. today.", "the n f l and nasa in the u s today"),
        ("WE CALL IT BEAR", "we call it bear"),
        ("'Em dogs' rock 'n' roll.", "em dogs rock n roll"),
        ("Caf\u00e9 R&B.", "cafe r and b"),
        ("See http://example.org now.", None),
        ("\u4f60\u597d", None),
        ("a = b", None),
        ("Half is 1/2.", None),
        ("...", None),
    ],
)  # fmt: skip
def test_spoken_form(written: str, spoken: str | None) -> None:
    assert spoken_form(written) == spoken


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x2100), max_size=60))
def test_spoken_form_is_only_letters_apostrophes_and_single_spaces(text: str) -> None:
    spoken = spoken_form(text)
    if spoken is not None:
        assert set(spoken) <= set("abcdefghijklmnopqrstuvwxyz' ")
        assert spoken == " ".join(spoken.split())
        assert all(word.strip("'") == word for word in spoken.split())


@settings(deadline=None)
@given(st.text(max_size=60))
def test_spoken_form_of_spoken_text_is_itself(text: str) -> None:
    spoken = spoken_form(text)
    if spoken is not None:
        assert spoken_form(spoken) == spoken


def test_split_sentences_keeps_abbreviations_together() -> None:
    assert split_sentences("Ask Dr. Who. J.R. Smith left! Why?\nOh") == [
        "Ask doctor Who.", "J R Smith left!", "Why?", "Oh",
    ]  # fmt: skip


def test_digits_in_words() -> None:
    assert digits_in_words("408") == "four zero eight"
