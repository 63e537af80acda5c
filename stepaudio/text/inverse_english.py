"""Spoken English numbers, money, times and dates to figures: inverse text normalisation.

Rules, not a model: what they do not know stays as it was heard. Numbers below ten stay words unless
something shows that they are figures: a unit, a sign, another digit, a month.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ONES = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
        " fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
_SCALES = {"thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS = {
    word: value
    for value, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
        " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth".split(), 1
    )
} | {
    word: 10 * value
    for value, word in enumerate(
        "twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth".split(), 2
    )
}  # fmt: skip
_MONTHS = frozenset(
    "january february march april may june july august september october november december".split()
)
_CURRENCIES = {
    "dollar": "$", "dollars": "$", "euro": "€", "euros": "€", "pound": "£", "pounds": "£",
    "yen": "¥",
}  # fmt: skip
_UNITS = {
    "percent": "%", "degrees": "°", "kilometers": " km", "kilometres": " km", "kilograms": " kg",
    "centimeters": " cm", "millimeters": " mm", "megabytes": " MB", "gigabytes": " GB",
}  # fmt: skip
_SMALL = 10
_GROUPED_FROM = 10_000  # 1984 is a year, 12,500 is not


def inverse_normalize(text: str) -> str:
    """Write numbers in a spoken English text as figures.

    Args:
        text: lower case, without punctuation, as a recogniser writes it.

    >>> inverse_normalize("twenty five dollars and ten cents on march third at nine fifteen p m")
    '$25.10 on march 3 at 9:15 p.m.'
    >>> inverse_normalize("one of them had two hundred and six bones")
    'one of them had 206 bones'
    """
    words = text.split()
    written: list[str] = []
    place = 0
    while place < len(words):
        for rule in (_time, _money, _ordinal, _year, _decimal, _digits, _number):
            found = rule(words, place, written[-1] if written else "")
            if found is not None:
                written.append(found.text)
                place += found.num_words
                break
        else:
            written.append(words[place])
            place += 1
    return " ".join(written)


@dataclass(frozen=True)
class _Found:
    """Text for so many words."""

    text: str
    num_words: int


def _below_hundred(words: Sequence[str], place: int) -> tuple[int, int]:
    """Value and number of words of a number below 100; no words where there is none."""
    word = words[place] if place < len(words) else ""
    if word in _TENS:
        following = words[place + 1] if place + 1 < len(words) else ""
        if 0 < _ONES.get(following, 0) < _SMALL:
            return _TENS[word] + _ONES[following], 2
        return _TENS[word], 1
    return (_ONES[word], 1) if word in _ONES else (0, 0)


def _below_thousand(words: Sequence[str], place: int) -> tuple[int, int]:
    value, used = _below_hundred(words, place)
    if words[place : place + 2] == ["a", "hundred"]:
        value, used = 1, 1
    if used and words[place + used : place + used + 1] == ["hundred"]:
        value, used = 100 * value, used + 1
        skip = 1 if words[place + used : place + used + 1] == ["and"] else 0
        rest, num_rest = _below_hundred(words, place + used + skip)
        if num_rest:
            return value + rest, used + skip + num_rest
    return value, used


def _cardinal(words: Sequence[str], place: int) -> tuple[int, int]:
    """Value and number of words of a number; no words where there is none."""
    total, used, smallest = 0, 0, 10**15
    while True:
        skip = 1 if used and words[place + used : place + used + 1] == ["and"] else 0
        value, count = _below_thousand(words, place + used + skip)
        if words[place : place + 1] == ["a"] and not used and not count:
            scale = _SCALES.get(words[place + 1] if place + 1 < len(words) else "", 0)
            value, count = (1, 1) if scale else (0, 0)
        if not count or (skip and value >= 100):
            return total, used
        scale = _SCALES.get("".join(words[place + used + skip + count :][:1]), 1)
        if scale >= smallest or (used and smallest == 1) or (skip and scale > 1):
            return total, used
        if used and scale == 1 and value >= smallest:
            return total, used
        total, smallest = total + value * scale, scale
        used += skip + count + (scale > 1)
        if scale == 1:
            return total, used


def _figures(value: int) -> str:
    return f"{value:,}" if value >= _GROUPED_FROM else str(value)


def _number(words: Sequence[str], place: int, before: str) -> _Found | None:
    value, used = _cardinal(words, place)
    if not used:
        return None
    following = words[place + used] if place + used < len(words) else ""
    if following in _UNITS:
        return _Found(_figures(value) + _UNITS[following], used + 1)
    if value < _SMALL and (before not in _MONTHS or before == "may"):
        return None
    return _Found(_figures(value), used)


def _decimal(words: Sequence[str], place: int, before: str) -> _Found | None:
    value, used = _cardinal(words, place)
    if not used or words[place + used : place + used + 1] != ["point"]:
        return None
    digits = _single_digits(words, place + used + 1)
    if not digits:
        return None
    end = place + used + 1 + len(digits)
    unit = _UNITS.get(words[end] if end < len(words) else "", "")
    return _Found(f"{_figures(value)}.{digits}{unit}", end - place + bool(unit))


def _single_digits(words: Sequence[str], place: int) -> str:
    digits = ""
    while place < len(words):
        value = 0 if words[place] == "oh" else _ONES.get(words[place], _SMALL)
        if value >= _SMALL:
            break
        digits += str(value)
        place += 1
    return digits


def _digits(words: Sequence[str], place: int, before: str) -> _Found | None:
    """Three or more digits, such as a telephone number."""
    if words[place] == "oh":
        return None
    digits = _single_digits(words, place)
    return _Found(digits, len(digits)) if len(digits) >= 3 else None


def _year(words: Sequence[str], place: int, before: str) -> _Found | None:
    """Two pairs of digits: nineteen eighty four."""
    first, used = _below_hundred(words, place)
    if not 10 <= first <= 29 or used == 0:
        return None
    if words[place + used : place + used + 1] == ["oh"]:
        second, count = _below_hundred(words, place + used + 1)
        if 0 < second < _SMALL and count:
            return _Found(f"{first}0{second}", used + 1 + count)
        return None
    second, count = _below_hundred(words, place + used)
    if second < 10 or not count:
        return None
    return _Found(f"{first}{second}", used + count)


def _ordinal(words: Sequence[str], place: int, before: str) -> _Found | None:
    tens = _TENS.get(words[place], 0)
    last = words[place + 1] if tens and place + 1 < len(words) else words[place]
    value = tens + _ORDINALS.get(last, 0) if last in _ORDINALS else 0
    if not value or (tens and _ORDINALS[last] >= _SMALL):
        return None
    used = 2 if tens else 1
    # "You may first ..." is no date.
    if before in _MONTHS and (before, value) != ("may", 1):
        return _Found(str(value), used)
    if value < _SMALL:
        return None
    teens = value % 100 in (11, 12, 13)
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return _Found(f"{value}{ending}", used)


def _time(words: Sequence[str], place: int, before: str) -> _Found | None:
    """An hour with minutes, or with a.m., p.m. or o'clock."""
    hour, used = _below_hundred(words, place)
    if not used or not 1 <= hour <= 12:
        return None
    minutes, count = "", 0
    if words[place + used : place + used + 1] == ["oh"]:
        value, more = _below_hundred(words, place + used + 1)
        if 0 < value < _SMALL:
            minutes, count = f":0{value}", 1 + more
    else:
        value, more = _below_hundred(words, place + used)
        if more and 10 <= value <= 59:
            minutes, count = f":{value}", more
    end = place + used + count
    half = {"a m": " a.m.", "p m": " p.m."}.get(" ".join(words[end : end + 2]), "")
    if half:
        return _Found(f"{hour}{minutes}{half}", used + count + 2)
    if words[end : end + 1] == ["o'clock"] and not minutes:
        return _Found(f"{hour} o'clock", used + 1)
    return _Found(f"{hour}{minutes}", used + count) if minutes and before == "at" else None


def _money(words: Sequence[str], place: int, before: str) -> _Found | None:
    value, used = _cardinal(words, place)
    sign = _CURRENCIES.get(words[place + used], "") if used and place + used < len(words) else ""
    if not sign:
        return None
    used += 1
    skip = 1 if words[place + used : place + used + 1] == ["and"] else 0
    cents, count = _below_hundred(words, place + used + skip)
    after = words[place + used + skip + count :][:1]
    if count and sign in "$€" and after in (["cents"], ["cent"]):
        return _Found(f"{sign}{_figures(value)}.{cents:02}", used + skip + count + 1)
    return _Found(f"{sign}{_figures(value)}", used)
