import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.text.english import EnglishNormalizer

ENGLISH = EnglishNormalizer()


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Author of the danger trail, Philip Steels, etc.",
         "author of the danger trail philip steels et cetera"),
        ("He said \u201cdon\u2019t\u201d \u2014 twice!", "he said don't twice"),
        ("Mr. and Mrs. Smith re-entered.", "mister and missus smith re entered"),
        ("Ask Prof. Lee, e.g. today.", "ask professor lee for example today"),
        ("St. Paul lives on Main St. in Mulholland Dr. with Dr. No",
         "saint paul lives on main street in mulholland drive with doctor no"),
        ("$12.50, $5 million or $15M", "twelve dollars and fifty cents five million dollars or"
         " fifteen million dollars"),
        ("$1, \u00a33.01, $0.99, 5 \u20ac, $1,000.00", "one dollar three pounds and one penny"
         " ninety nine cents five euros one thousand dollars"),
        ("At 11:30 am, 9:05 or 5 p.m.", "at eleven thirty a m nine oh five or five p m"),
        ("12:00, 14:00 and 12:30:45",
         "twelve o'clock fourteen hundred and twelve thirty and forty five seconds"),
        ("On March 3, 2019 and 4 May.", "on march third twenty nineteen and fourth may"),
        ("Jan. 5, 1999; 2024-03-05", "january fifth nineteen ninety nine march fifth twenty"
         " twenty four"),
        ("the 1990s and the '80s", "the nineteen nineties and the eighties"),
        ("408-247-8880 or 555-1234", "four zero eight two four seven eight eight eight zero or"
         " five five five one two three four"),
        ("3.14, 1,234, 1234567 and -5", "three point one four one thousand two hundred and thirty"
         " four one million two hundred and thirty four thousand five hundred and sixty seven and"
         " minus five"),
        ("50% of 1905", "fifty percent of nineteen oh five"),
        ("1st 2nd 3rd 21st 102nd", "first second third twenty first one hundred and second"),
        ("No. 9 is #1, ok?", "number nine is number one okay"),
        ("Agent 007", "agent zero zero seven"),
        ("5 km/h, 1 km, 6 ft, -20\u2103, 2.4 GHz, 3kWh", "five kilometers per hour one kilometer"
         " six feet minus twenty degrees celsius two point four gigahertz three kilowatt hours"),
        ("1/2, 3/4, 7/8, \u00bd, 24/7", "one half three quarters seven eighths one half twenty"
         " four seven"),
        ("1914\u20131918, 10-20", "nineteen fourteen to nineteen eighteen ten to twenty"),
        ("The NFL and NASA in the U.S. today", "the n f l and nasa in the u s today"),
        ("WE CALL IT BEAR", "we call it bear"),
        ("'Em dogs' rock 'n' roll o'clock", "em dogs rock n roll o'clock"),
        ("Caf\u00e9 R&B, na\u00efve \uff21\uff22", "cafe r and b naive a b"),
        ("COVID-19, mp3, version 1.2.3", "covid nineteen mp three version one point two point"
         " three"),
        ("me@example.com", "me at example dot com"),
        ("...", ""),
    ],
)  # fmt: skip
def test_written_to_spoken(written: str, spoken: str) -> None:
    assert ENGLISH.written_to_spoken(written) == spoken


def test_scoring_form() -> None:
    score = ENGLISH.for_scoring
    assert score("[noise] One hundred and five <unk> cats, and two.") == (
        "one hundred five cats and two"
    )
    assert score("105 cats and 2") == "one hundred five cats and two"
    assert score("one hundred and counting") == "one hundred and counting"


def test_training_form_is_not_changed() -> None:
    for text in ("her mouth opened but instead of speaking she drew a long sigh",
                 "i'd say there was going to be a glorious scrap", "zero three five one",
                 "the n f l at nine oh five a m"):  # fmt: skip
        assert ENGLISH.written_to_spoken(text) == ENGLISH.for_scoring(text) == text


ASCII = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@settings(deadline=None, max_examples=300)
@given(ASCII)
def test_ascii_gives_spoken_words_only(text: str) -> None:
    spoken = ENGLISH.written_to_spoken(text)
    assert set(spoken) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert spoken == " ".join(word.strip("'") for word in spoken.split())
    assert ENGLISH.written_to_spoken(spoken) == spoken


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_without_digits_or_signs(text: str) -> None:
    spoken = ENGLISH.written_to_spoken(text)
    assert all(char.isalpha() or char in " '" or not char.isascii() for char in spoken)
    assert spoken == " ".join(spoken.split())
