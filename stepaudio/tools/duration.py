"""Durations as people say them: "five minutes", "half an hour", "1 hour 30 minutes"."""

from __future__ import annotations

import re

from stepaudio.errors import ToolError

MAX_DURATION_S = 24 * 3600
_UNITS = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS: dict[str, float] = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
    "a": 1,
    "an": 1,
    "half": 0.5,
    "quarter": 0.25,
}
# Articles beside a fraction count nothing: "half an hour", "a quarter of an hour", "and a half".
_ARTICLE = re.compile(r"(?:\ba )?\b(half|quarter)\b(?: of)?(?: an?\b)?")
_WORD = re.compile(r"\d+(?:\.\d+)?|[a-z]+")


def parse_duration(text: str) -> float:
    """Seconds of a duration, in words or figures.

    Example:
        >>> parse_duration("one and a half hours"), parse_duration("1 minute 30 seconds")
        (5400.0, 90.0)

    Raises:
        ToolError: it is none, or not between zero and a day.
    """
    seconds, count, unit = 0.0, None, 0
    for word in _WORD.findall(_ARTICLE.sub(r"\1", text.lower())):
        value = _number(word)
        if value is not None:
            count = value if count is None else count + value
        elif word == "hundred" and count is not None:
            count *= 100
        elif word.removesuffix("s") in _UNITS and count is not None:
            unit = _UNITS[word.removesuffix("s")]
            seconds, count = seconds + count * unit, None
        elif word != "and":
            raise ToolError(f"{text!r} is no duration")
    if count is not None and count < 1:  # "an hour and a half"
        seconds, count = seconds + count * unit, None
    if count is not None or not 0 < seconds <= MAX_DURATION_S:
        raise ToolError(f"{text!r} is no duration of at most a day")
    return seconds


def say_duration(seconds: float) -> str:
    """A duration in figures and units, such as "1 hour 30 minutes"."""
    left, parts = round(seconds), []
    for name in ("hour", "minute", "second"):
        count, left = divmod(left, _UNITS[name])
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " ".join(parts)


def _number(word: str) -> float | None:
    return float(word) if word[0].isdigit() else _NUMBERS.get(word)
