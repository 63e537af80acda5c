"""Numbers in English words or figures, as far as tools need them."""

from __future__ import annotations

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = {word: value for value, word in enumerate(_ONES)}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
# What recognition writes for numbers that sound like other words.
_VALUES |= {"to": 2, "too": 2, "for": 4, "fore": 4, "ate": 8, "won": 1}


def parse_number(text: str) -> float | None:
    """Value of a number such as "twenty five", "minus three" or "2.5"; None: it is none."""
    total, count, is_empty = 0.0, 0.0, True
    words = text.lower().replace("-", " -").split()
    sign = -1.0 if words[:1] in (["minus"], ["-"]) else 1.0
    for word in words[1:] if sign < 0 else words:
        if word in _VALUES:
            count += _VALUES[word]
        elif word == "hundred" and count:
            count *= 100
        elif word == "thousand" and count:
            total, count = total + 1000 * count, 0.0
        elif word == "and" and not is_empty:
            continue
        else:
            try:
                count += float(word)
            except ValueError:
                return None
        is_empty = False
    return None if is_empty else sign * (total + count)
