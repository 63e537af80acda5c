import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.text.chinese import ChineseNormalizer, read_number

CHINESE = ChineseNormalizer()
DIGITS = {char: n for n, char in enumerate("零一二三四五六七八九")} | {"两": 2}
UNITS = {"十": 10, "百": 100, "千": 1000}


def parse(words: str) -> int:
    """Value of a Chinese numeral, written apart from the code under test."""
    for unit, value in (("亿", 10**8), ("万", 10**4)):
        if unit in words:
            upper, lower = words.rsplit(unit, 1)
            return parse(upper) * value + (parse(lower) if lower else 0)
    total, digit = 0, None
    for char in words:
        if char in UNITS:
            total += (1 if digit is None else digit) * UNITS[char]
            digit = None
        else:
            digit = DIGITS[char] or None
    return total + (digit or 0)


@settings(max_examples=500)
@given(st.integers(0, 10**16 - 1) | st.integers(0, 30_000))
def test_numbers_can_be_read_back(value: int) -> None:
    words = read_number(value)
    assert parse(words) == value
    assert "零零" not in words and (value == 0 or not words.endswith("零"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "零"), (10, "十"), (15, "十五"), (20, "二十"), (105, "一百零五"), (110, "一百一十"),
        (1005, "一千零五"), (2000, "两千"), (10_000, "一万"), (10_012, "一万零一十二"),
        (100_500, "十万零五百"), (120_000, "十二万"), (1_234_567, "一百二十三万四千五百六十七"),
        (200_000_000, "两亿"), (100_010_000, "一亿零一万"), (10**12, "一万亿"),
    ],
)  # fmt: skip
def test_read_number(value: int, words: str) -> None:
    assert read_number(value) == words


def test_numbers_out_of_range() -> None:
    for value in (-1, 10**16):
        with pytest.raises(ValueError, match="need a number"):
            read_number(value)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("今天 天气，很好！", "今天天气很好"),
        ("２０２４年３月５日", "二零二四年三月五日"),
        ("2024-03-05 10:05", "二零二四年三月五日十点零五分"),
        ("10:00到12:30:45", "十点到十二点三十分四十五秒"),
        ("涨了5.5%。", "涨了百分之五点五"),
        ("花了￥5.5和$3万", "花了五点五元和三万美元"),
        ("电话13800138000", "电话一三八零零一三八零零零"),
        ("人口10000000", "人口一千万"),
        ("2个人，第2个，12个", "两个人第二个十二个"),
        ("1/2和3-5天", "二分之一和三到五天"),
        ("-5℃，100km/h，-3", "零下五摄氏度一百公里每小时负三"),
        ("我爱 AI，Hello World！", "我爱ai hello world"),
        ("1,234,567和007", "一百二十三万四千五百六十七和零零七"),
        ("1+1=2", "一加一等于二"),
        ("……", ""),
    ],
)
def test_written_to_spoken(written: str, spoken: str) -> None:
    assert CHINESE.written_to_spoken(written) == spoken
    assert CHINESE.written_to_spoken(spoken) == spoken


def test_scoring_form_knows_equal_words() -> None:
    assert CHINESE.for_scoring("两百〇二[笑声]") == CHINESE.for_scoring("二百零二")
    assert CHINESE.for_scoring("2个") == "二个"


@settings(deadline=None)
@given(st.text(alphabet="今天 我0123456789.,，。-/:%¥$aB'", max_size=40))
def test_no_digit_or_punctuation_is_left(text: str) -> None:
    spoken = CHINESE.written_to_spoken(text)
    assert not set(spoken) & set("0123456789.,，。-/:%¥$B")
    assert spoken == " ".join(spoken.split())
