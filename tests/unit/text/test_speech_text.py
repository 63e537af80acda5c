import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.text.latin import to_latin
from stepaudio.text.speech_text import (
    Sentence,
    SpeechTextOptions,
    spoken_length,
    spoken_sentences,
    written_sentences,
)

KNOWN = frozenset("the fbi and us not did youtube mcdonald's cds usb wifi stop".split())


def said(text: str) -> str:
    return ". ".join(s.text for s in spoken_sentences(text, known=KNOWN))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Henry VIII and Louis XIV in World War II, chapter IV, Rocky III. Malcolm X. The IV.",
         "henry the eighth and louis the fourteenth in world war two chapter four rocky three."
         " malcolm x. the i v"),
        ("See https://www.a.org/b-c?x=1, bbc.co.uk, foo.b@mail.com, main.py, @me #BigDay",
         "see w w w dot a dot org slash b dash c question mark x equals one b b c dot co dot u k"
         " foo dot b at mail dot com main dot p y at me hashtag big day"),
        ("C++, C# w/ Python3; mp3, B2B, R2D2, H2O, 4B",
         "c plus plus c sharp with python three m p three b two b r two d two h two o four b"),
        ('He is 5\'10" or 6\' tall', "he is five feet ten or six feet tall"),
        ("2+2=4, 5-3=2, 3*4, x^2, a < b, 3 <= 4, 1e-5, .5, 2x4",
         "two plus two equals four five minus three equals two three times four x squared a is less"
         " than b three is at most four one times ten to the power of minus five zero point five"
         " two by four"),
        ("US$5, 20 EUR, $10-$20, $3-5 million, $1.5bn, 5M, 100k, 4K, 5\u00a2",
         "five dollars twenty euros ten dollars to twenty dollars three to five million dollars one"
         " point five billion dollars five million one hundred thousand four k five cents"),
        ("12/25/2023, 25.12.2023, 31/1/24, 13/13/13, Mon. 3 Feb., Sept.",
         "december twenty fifth twenty twenty three december twenty fifth twenty twenty three"
         " january thirty first twenty twenty four thirteen thirteen thirteen monday third february"
         " september"),
        ("10:30-11:30, 9am-5pm, 8 a.m.",
         "ten thirty to eleven thirty nine ay m to five p m eight ay m"),
        ("+44 20 7946 0958, 911, 9-1-1, $911, MO 63101",
         "plus four four two zero seven nine four six zero nine five eight nine one one nine one"
         " one nine hundred and eleven dollars m o six three one zero one"),
        ("3 sq. ft., 5 m\u00b2, 50 mg/dL, 5 GB/s, 5 \u00b5m, 60 mph, 30 km/h",
         "three square feet five square meters fifty milligrams per deciliter five gigabytes per"
         " second five micrometers sixty miles per hour thirty kilometers per hour"),
        ("Lt. Col. Lee vs. Sgt. Hill Jr. of Acme Co., e.g. p. 5, pp. 7-9, vol. III.",
         "lieutenant colonel lee versus sergeant hill junior of acme company for example page five"
         " pages seven to nine volume three"),
        ("The FBI, NSA and NASA did NOT stop US. CDs, USB, DVDs, WiFi, YouTube, JavaScript.",
         "the fbi n s ay and nasa did not stop u s. cds usb d v d's wifi youtube java script"),
        ("IT WAS LATE. STOP!", "it was late. stop"),
        ("Plan A, vitamin A. A. Smith had a plan. A.I. for J. R. Hill, PhD",
         "plan ay vitamin ay. ay smith had a plan. ay i for j r hill p h d"),
        ("I \u2764\ufe0f it \U0001f600, 100%! \u00bd of 3 1/4",
         "i it one hundred percent. one half of three and one quarter"),
        ("Dvo\u0159\u00e1k, \u00d8re, \u0141\u00f3d\u017a, \u041c\u043e\u0441\u043a\u0432\u0430,"
         " \u5317\u4eac, \u03b1-particle, \u0663", "dvorak ore lodz moskva bei jing alpha particle"
         " three"),
        ("mother-in-law's \u2018twenty-one\u2019 rock'n'roll", "mother in law's twenty one"
         " rock'n'roll"),
        ('<b class="x">Hi</b> &amp; x<y', "hi and x y"),
        ("** --- \U0001f600 !!! ()", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_spoken(written: str, spoken: str) -> None:
    assert said(written) == spoken


def test_pauses_tell_what_ends() -> None:
    options = SpeechTextOptions(max_letters=20)
    found = spoken_sentences("It rains a lot here, and it pours. Title\n\nNext. End", options)
    assert found == [
        Sentence("it rains a lot here", "clause"),
        Sentence("and it pours", "sentence"),
        Sentence("title", "paragraph"),
        Sentence("next", "sentence"),
        Sentence("end", "sentence"),
    ]
    assert found[1].words == ("and", "it", "pours")
    assert found[1].num_letters == 10


def test_text_as_written() -> None:
    found = written_sentences(
        "你好，世界。 Dr. Lee\nleft! ... ", SpeechTextOptions(max_letters=200)
    )
    assert [s.text for s in found] == ["你好，世界。", "Dr. Lee left!"]
    assert spoken_length("你好, a1") == 8
    cut = written_sentences("你好，世界。", SpeechTextOptions(max_letters=6))
    assert [(s.text, s.pause) for s in cut] == [("你好，", "clause"), ("世界。", "sentence")]


WORDS = st.lists(st.text(string.ascii_lowercase, min_size=2, max_size=12), min_size=1, max_size=80)
MARKS = st.lists(st.sampled_from([" ", ", ", "; ", ". ", "? ", "! ", "\n\n", " - "]), min_size=80,
                 max_size=80)  # fmt: skip


@given(WORDS, MARKS, st.integers(14, 100))
def test_no_word_is_lost_repeated_or_moved(words: list[str], marks: list[str], limit: int) -> None:
    words = [word + "x" for word in words]  # no abbreviation, unit or address ends so
    text = "".join(word + mark for word, mark in zip(words, marks, strict=False))
    sentences = spoken_sentences(text, SpeechTextOptions(max_letters=limit))
    assert [word for sentence in sentences for word in sentence.words] == words
    assert all(sentence.num_letters <= limit * 3 // 2 for sentence in sentences)
    again = written_sentences(text, SpeechTextOptions(max_letters=limit))
    assert "".join(s.text for s in again).replace(" ", "") == "".join(text.split())


ANYTHING = st.one_of(
    st.text(max_size=100),
    st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=100),
    st.lists(
        st.sampled_from(
            (
                "$ 5 .5 3/4 1/1/20 12:30 A. a.m. VIII Henry www. .com @ # C# II % e.g. 5'10\" &amp;"
                " <b> 1e9 +44 9-1-1 km/h MB 20% é ½ 漢 😀 \ud800 \x00 \n\n ' - — ² ^ ~ x 3rd 1,000"
                " US"
            ).split(" ")
        ),
        max_size=30,
    ).map(" ".join),
)  # fmt: skip


@given(ANYTHING)
def test_anything_becomes_words_of_letters(text: str) -> None:
    sentences = spoken_sentences(text, SpeechTextOptions(max_letters=50, max_word_letters=10))
    for sentence in sentences:
        assert sentence.words
        assert set(sentence.text) <= set(string.ascii_lowercase + "' ")
        assert all(len(word) <= 10 for word in sentence.words)
    written_sentences(text)


def test_every_character_can_be_read() -> None:
    text = "".join(chr(code) + " " for code in range(0, sys.maxunicode + 1, 7))
    latin = to_latin(text)
    assert set(latin) - set(map(chr, range(32, 127))) <= set("£€¥×°²³½¼¾‘’")
    many = to_latin("".join(map(chr, range(0x2FF, 0x600))))
    assert len(many) > 500


def test_words_that_nobody_can_say_are_cut() -> None:
    found = spoken_sentences("a" * 1000 + " " + "9" * 1000)
    assert "".join(s.text for s in found).replace(" ", "").count("a") == 1000
    assert all(len(word) <= 32 for sentence in found for word in sentence.words)
    assert sum(sentence.text.count("nine") for sentence in found) == 1000
