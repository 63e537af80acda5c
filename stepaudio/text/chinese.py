"""Chinese text normalisation: "2024年花了¥5.5" is "二零二四年花了五点五元"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_DIGITS = "零一二三四五六七八九"
_LARGEST = 10**16  # beyond it numbers are read digit by digit
_CURRENCIES = {"¥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_UNITS = {
    "km/h": "公里每小时", "km": "公里", "cm": "厘米", "mm": "毫米", "m": "米", "kg": "公斤",
    "mg": "毫克", "g": "克", "ml": "毫升", "mL": "毫升", "L": "升", "°C": "摄氏度", "°F": "华氏度",
    "°": "度",
}  # fmt: skip
_MEASURE_WORDS = "个只条张本位名次件天年月周岁块片支瓶杯家辆台口头匹双种句段层座间棵朵场份"
_SYMBOLS = {"+": "加", "=": "等于", "×": "乘以", "÷": "除以", "%": "百分号", "&": "和"}
_SIGNS = str.maketrans({"²": "平方", "³": "立方", "−": "-", "–": "-", "\u200b": None})
_SCALE = r"(十|百|千|万|亿|百万|千万|万亿)?"
_INTEGER = r"(\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_AMOUNT = _INTEGER + r"(?:\.(\d+))?"
_CJK = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


def _below_ten_thousand(value: int, inside: bool) -> str:
    words, gap = "", False
    for power, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = value // power % 10
        if digit == 0:
            gap = True
            continue
        if gap and words:
            words += _DIGITS[0]
        gap = False
        if power == 10 and digit == 1 and not words and not inside:
            words += unit
        else:
            words += ("两" if digit == 2 and power == 1000 else _DIGITS[digit]) + unit
    return words


def read_number(value: int, *, inside: bool = False) -> str:
    """Read a number from 0 to 10^16 - 1.

    Args:
        value: the number.
        inside: it is the lower part of a larger number, where 10 is 一十.

    Raises:
        ValueError: the number is out of range.

    >>> read_number(10_205)
    '一万零二百零五'
    """
    if not 0 <= value < _LARGEST:
        raise ValueError(f"need a number from 0 to {_LARGEST - 1}, got {value}")
    if value == 0:
        return _DIGITS[0]
    for power, unit in ((10**8, "亿"), (10**4, "万")):
        upper, lower = divmod(value, power)
        if upper:
            words = ("两" if upper == 2 else read_number(upper, inside=inside)) + unit
            if lower:
                words += _DIGITS[0] if lower < power // 10 else ""
                words += read_number(lower, inside=True)
            return words
    return _below_ten_thousand(value, inside)


def _digits(digits: str) -> str:
    return "".join(_DIGITS[int(digit)] for digit in digits if digit.isdecimal())


def _amount(whole: str, fraction: str | None = None) -> str:
    digits = whole.replace(",", "")
    # Telephone numbers and the like, but not round numbers.
    is_code = len(digits) > 7 and "," not in whole and not digits.endswith("0000")
    starts_with_zero = len(digits) > 1 and int(digits[0]) == 0
    if is_code or starts_with_zero or len(digits) > 16:
        words = _digits(digits)
    else:
        words = read_number(int(digits))
    return f"{words}点{_digits(fraction)}" if fraction else words


def _date(match: re.Match[str]) -> str:
    year, month, day = match.groups()
    return f"{_digits(year)}年{read_number(int(month))}月{read_number(int(day))}日"


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match.groups()
    words = read_number(int(hour)) + "点"
    if int(minute) or second:
        words += ("零" if 0 < int(minute) < 10 else "") + read_number(int(minute)) + "分"
    if second:
        words += read_number(int(second)) + "秒"
    return words


def _money(match: re.Match[str]) -> str:
    symbol, whole, fraction, scale = match.groups()
    return _amount(whole, fraction) + (scale or "") + _CURRENCIES[symbol]


_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"), _date),
    (re.compile(r"(?<!\d)([12]\d{3})(?=年)"), lambda m: _digits(m[1])),
    (re.compile(r"(?<!\d)([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?!\d)"), _clock),
    (re.compile(rf"([{re.escape(''.join(_CURRENCIES))}])\s?{_AMOUNT}{_SCALE}"), _money),
    (re.compile(rf"{_AMOUNT}\s?%"), lambda m: f"百分之{_amount(m[1], m[2])}"),
    (
        re.compile(r"(?<![\d/])(\d+)/(\d+)(?![\d/])"),
        lambda m: f"{_amount(m[2])}分之{_amount(m[1])}",
    ),
    (re.compile(r"(?<![\w.)])-(?=\d+(?:\.\d+)?\s?°)"), lambda m: "零下"),
    (re.compile(r"(?<![\w.)])-(?=\d)"), lambda m: "负"),
    (re.compile(r"(?<=\d)\s?[-~]\s?(?=\d)"), lambda m: "到"),
    (
        re.compile(
            rf"{_AMOUNT}\s?({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})"
            r"(?![A-Za-z/])"
        ),
        lambda m: _amount(m[1], m[2]) + _UNITS[m[3]],
    ),
    (re.compile(rf"(?<![\d.,第])2(?=[{_MEASURE_WORDS}])"), lambda m: "两"),
    (re.compile(_AMOUNT), lambda m: _amount(m[1], m[2])),
)
_TAG = re.compile(r"\[[^\]]*\]|<[^>]*>")
_NOT_SPOKEN = re.compile(r"[^\w']|[\d_]")
_LONE_APOSTROPHE = re.compile(r"(?<![a-z])'+|'+(?![a-z])")
_SPACE_AT_CJK = re.compile(rf"(?<=[{_CJK}]) +| +(?=[{_CJK}])")
_SAME_SOUND = str.maketrans({"两": "二", "〇": "零", "幺": "一"})


class ChineseNormalizer:
    """Chinese rules; see `stepaudio.text.normalize.TextNormalizer`."""

    def written_to_spoken(self, text: str) -> str:
        """Read out numbers, dates, times, money and units in Chinese characters.

        Full-width characters become half-width, punctuation goes, and so do spaces beside Chinese
        characters; Latin words come out in lower case, parted by spaces.

        >>> ChineseNormalizer().written_to_spoken("2024年 3 月，涨了 5.5%。")
        '二零二四年三月涨了百分之五点五'
        """
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
        text = _SPACE_AT_CJK.sub("", text)
        for pattern, reading in _RULES:
            text = pattern.sub(reading, text)
        for symbol, word in _SYMBOLS.items():
            text = text.replace(symbol, word)
        text = _LONE_APOSTROPHE.sub(" ", _NOT_SPOKEN.sub(" ", text.lower()))
        return _SPACE_AT_CJK.sub("", " ".join(text.split()))

    def for_scoring(self, text: str) -> str:
        """As spoken, without tags, and with one character for 二 and 两, 零 and 〇, 一 and 幺."""
        return self.written_to_spoken(_TAG.sub(" ", text)).translate(_SAME_SOUND)
