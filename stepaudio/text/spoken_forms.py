"""What people write and say otherwise, in English: addresses, dates, units, kings, acronyms.

`EnglishNormalizer` reads texts as recognisers are trained on them; a voice meets more. These rules
come before it and leave it what it knows: numbers, money, times and ordinary abbreviations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container

from num2words import num2words

from stepaudio.text.addresses import read_addresses, spell
from stepaudio.text.roman import read_roman

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_SHORT_MONTHS = {name[:3].lower(): name for name in _MONTHS} | {"sept": "September"}
_DAYS = {
    "mon": "Monday", "tue": "Tuesday", "tues": "Tuesday", "wed": "Wednesday", "thu": "Thursday",
    "thur": "Thursday", "thurs": "Thursday", "fri": "Friday", "sat": "Saturday", "sun": "Sunday",
}  # fmt: skip
_CURRENCIES = {
    "USD": "dollars", "EUR": "euros", "GBP": "pounds", "JPY": "yen", "CHF": "Swiss francs",
    "CAD": "Canadian dollars", "AUD": "Australian dollars", "CNY": "yuan", "RMB": "yuan",
    "INR": "rupees",
}  # fmt: skip
# Read out in full with their full stop, whatever their case.
_ABBREVIATIONS = {
    "co": "company", "bros": "brothers", "maj": "major", "cmdr": "commander", "cpl": "corporal",
    "adm": "admiral", "pres": "president", "univ": "university", "apt": "apartment",
    "bldg": "building", "hwy": "highway", "ln": "lane", "ct": "court", "tel": "telephone",
    "ext": "extension", "avg": "average", "max": "maximum", "min": "minimum",
    "misc": "miscellaneous", "incl": "including", "excl": "excluding", "tbsp": "tablespoon",
    "tsp": "teaspoon", "cf": "compare", "ca": "circa", "intl": "international", 
    "assn": "association", "govt": "government", "mgr": "manager", "asst": "assistant",
    "hrs": "hours", "mins": "minutes",
    "secs": "seconds", "yrs": "years", "yr": "year", "wk": "week", "qty": "quantity", "ms": "ms",
    "messrs": "messieurs", "fr": "father", "cpt": "captain", "jr": "junior", "sr": "senior",
}  # fmt: skip
# Only in front of a number.
_REFERENCES = {
    "p": "page", "pp": "pages", "fig": "figure", "figs": "figures", "vol": "volume",
    "vols": "volumes", "ch": "chapter", "sec": "section", "eq": "equation", "art": "article",
    "v": "verse", "op": "opus",
}  # fmt: skip
_UNITS = {
    "yd": "yards", "yds": "yards", "gal": "gallons", "qt": "quarts", "pt": "pints",
    "rpm": "r p m", "bpm": "beats per minute", "fps": "frames per second", "dpi": "d p i",
    "px": "pixels", "mAh": "milliampere hours", "Wh": "watt hours", "ha": "hectares",
    "microm": "micrometers", "micros": "microseconds", "microg": "micrograms",
    "nm": "nanometers", "ns": "nanoseconds", "Nm": "newton meters", "cal": "calories",
    "kcal": "kilocalories", "kJ": "kilojoules", "Mbps": "megabits per second",
    "Gbps": "gigabits per second", "kbps": "kilobits per second", "mA": "milliamperes",
    "kV": "kilovolts", "mV": "millivolts", "kPa": "kilopascals", "hPa": "hectopascals",
    "bn": "billion",
}  # fmt: skip
_AREAS = {"ft": "feet", "m": "meters", "km": "kilometers", "mi": "miles", "in": "inches",
          "yd": "yards", "cm": "centimeters", "mm": "millimeters"}  # fmt: skip
_PER = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "day": "day",
        "week": "week", "wk": "week", "month": "month", "mo": "month", "yr": "year",
        "year": "year", "kg": "kilogram", "m": "meter", "km": "kilometer", "L": "liter",
        "l": "liter", "dL": "deciliter"}  # fmt: skip
_SCALES = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion"}
_SUPERSCRIPTS = {"2": " squared", "3": " cubed", "\u00b2": " squared", "\u00b3": " cubed"}
# All that is left of an acronym that is a word.
_SPOKEN_ACRONYMS = frozenset(
    "COVID NASA NATO NASCAR FIFA UEFA UNESCO UNICEF AIDS OK OPEC ZIP PIN RAM ROM IKEA NAFTA SIM GIF"
    " JPEG LASER RADAR SCUBA SWAT SARS MERS LIDAR SQUID NAND BASIC COBOL LEGO NVIDIA ASAP YOLO"
    " ASCII PAC CAPTCHA DOS HIPAA OSHA FEMA POTUS SCOTUS NIMBY ISIS LAN WAN MIDI WIFI TED".split()
)
_SPELLED = frozenset("LED ETA GPA SAT ALS API URL SQL".split())  # although there is such a word
_EMPHASISED = frozenset(
    "AM AN AS AT BE BY DO GO HE IF IN IS ME MY NO OF OH OK ON OR SO TO UP WE".split()
)
_LONGEST_ACRONYM = 5
_LONGEST_CODE_NUMBER = 3  # digits; more are read one by one
_MAX_SHOUTED_SHARE = 0.6  # capitals among the letters of a sentence that is not shouted
_SHORTEST_SHOUT = 4  # letters; a shorter word of capitals may be an acronym

_DAY_NAMES = "|".join(_DAYS)
_MONTH_NAMES = "|".join(_SHORT_MONTHS)
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _keys(table: dict[str, str]) -> str:
    return "|".join(sorted(map(re.escape, table), key=len, reverse=True))


def _numeric_date(first: int, second: int, year: str) -> str | None:
    """Month and day in the American order, the other one where only that is a date."""
    month, day = (first, second) if first <= len(_MONTHS) else (second, first)
    if not (1 <= month <= len(_MONTHS) and 1 <= day <= 31):
        return None
    if len(year) == 2:
        year = ("20" if int(year) < 70 else "19") + year
    return f"{_MONTHS[month - 1]} {day}, {year}"


def _slashed(match: re.Match[str]) -> str:
    return _numeric_date(int(match[1]), int(match[2]), match[3]) or match[0].replace("/", " ")


def _dotted(match: re.Match[str]) -> str:
    if int(match[2]) > len(_MONTHS) or int(match[1]) > 31:
        return match[0]
    return _numeric_date(int(match[2]), int(match[1]), match[3]) or match[0]


def _one_by_one(digits: str) -> str:
    return " ".join(digit for digit in digits if digit.isdigit())


def _power(match: re.Match[str]) -> str:
    return _SUPERSCRIPTS.get(match[1]) or f" to the power of {match[1]}"


_ARITHMETIC: tuple[_Rule, ...] = (
    (re.compile(r"(?<=[\w)])\s?\^\s?(-?\w+)"), _power),
    (re.compile(r"(?<=\d)\s?-\s?(?=\d+(?:\.\d+)?\s?=)"), " minus "),
    (re.compile(r"\b(\d(?:\.\d+)?)[eE]([-+]?\d{1,3})\b"), r"\1 times 10 to the power of \2"),
    (re.compile(r"(?<=\d)\s?[*\u00d7]\s?(?=\d)"), " times "),
    (re.compile(r"(?<=\d)\s?[xX]\s?(?=\d)"), " by "),
    (re.compile(r"(?<=\w)\s?<=\s?(?=\w)"), " is at most "),
    (re.compile(r"(?<=\w)\s?>=\s?(?=\w)"), " is at least "),
    (re.compile(r"(?<=\d)\s?<\s?(?=\d)|(?<=\w)\s<\s(?=\w)"), " is less than "),
    (re.compile(r"(?<=\d)\s?>\s?(?=\d)|(?<=\w)\s>\s(?=\w)"), " is greater than "),
    (re.compile(r"(?<!\w)~\s?(?=\d)"), "about "),
    (re.compile(r"(?<![\w.])\.(?=\d)"), "0."),
    (re.compile(r"(?<=\d)\s?(?=[\u00bd\u00bc\u00be])|(?<=\d)\s(?=\d/\d)"), " and "),
)
_QUANTITIES: tuple[_Rule, ...] = (
    (re.compile(r"\b(?:US|U\.S\.|CA|AU|A|C|NZ|HK)(?=\$\s?\d)"), ""),
    (re.compile(rf"([$\u00a3\u20ac\u00a5])\s?({_NUMBER})\s?-\s?\1?({_NUMBER})"), r"\1\2 to \1\3"),
    (re.compile(rf"\$({_NUMBER}) to \$({_NUMBER})(?=\s(?:[mbtr]+illion|thousand))"), r"\1 to $\2"),
    (
        re.compile(rf"\b({_NUMBER})\s?({_keys(_CURRENCIES)})\b"),
        lambda m: f"{m[1]} {_CURRENCIES[m[2]]}",
    ),
    (
        re.compile(rf"\b({_keys(_CURRENCIES)})\s?({_NUMBER})\b"),
        lambda m: f"{m[2]} {_CURRENCIES[m[1]]}",
    ),
    (re.compile(r"(?<!\w)(\d{1,2})'\s?(\d{1,2})(?:\"|''|(?!\w))"), r"\1 feet \2"),
    (re.compile(r"(?<!\w)(\d{1,2})'(?=\s|$)"), r"\1 feet"),
    (re.compile(r"\b(\d+(?:\.\d+)?)x\b"), r"\1 times"),
    # "4K" is a picture, "5K" a run.
    (
        re.compile(
            r"\b(\d+(?:\.\d+)?(?=[kM])|\d{2,}(?=K)|(?<=[$\u00a3\u20ac])\d+(?=B)|\d+\.\d+(?=B))([kKMB])\b"
        ),
        lambda m: f"{m[1]} {_SCALES[m[2]]}",
    ),
    (
        re.compile(rf"(?<=\d)\s?sq\.?\s?({_keys(_AREAS)})\b\.?"),
        lambda m: f" square {_AREAS[m[1]]}",
    ),
    (
        re.compile(rf"(?<=\d)\s?({_keys(_AREAS)})[2\u00b2](?!\w)"),
        lambda m: f" square {_AREAS[m[1]]}",
    ),
    (
        re.compile(rf"(?<=\d)\s?({_keys(_AREAS)})[3\u00b3](?!\w)"),
        lambda m: f" cubic {_AREAS[m[1]]}",
    ),
    (re.compile(rf"(?<=\d)\s?({_keys(_UNITS)})(?![\w/])\.?"), lambda m: f" {_UNITS[m[1]]}"),
    (
        re.compile(rf"(?<=\d)(\s?[A-Za-z%\u00b0]+)/({_keys(_PER)})(?!\w)"),
        lambda m: m[0] if m[0].strip() in ("km/h", "m/s") else f"{m[1]} per {_PER[m[2]]}",
    ),
    (
        re.compile(r"(?<=\d)\s?(ft|lb|lbs|oz|mi|hr|hrs|sec|min|kg|km|cm|mm|in)\.(?=\s+[a-z,])"),
        r" \1",
    ),
)
_DATES: tuple[_Rule, ...] = (
    (re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})\b"), _slashed),
    (re.compile(r"\b(\d{1,2})\.(\d{1,2})\.(\d{4})\b"), _dotted),
    (
        re.compile(
            r"\b(\d{1,2}(?::\d\d)?(?:\s?[ap]\.?m\.?)?)\s?-\s?(?=\d{1,2}(?::\d\d|\s?[ap]\.?m\b))",
            re.IGNORECASE,
        ),
        r"\1 to ",
    ),
    (re.compile(r"\b\d(?:-\d){2,}\b"), lambda m: _one_by_one(m[0])),
    (
        re.compile(rf"\b({_DAY_NAMES})\b\.?(?=,?\s+(?:\d|(?:{_MONTH_NAMES})))", re.IGNORECASE),
        lambda m: _DAYS[m[1].lower()],
    ),
    (
        re.compile(r"\b(Mon|Tues?|Wed|Thu|Thurs?|Fri)\."),
        lambda m: _DAYS[m[1].lower()],
    ),
    (
        re.compile(rf"(?<=\d)(\s+|(?:st|nd|rd|th)\s+)({_MONTH_NAMES})\b\.?", re.IGNORECASE),
        lambda m: f"{m[1]}{_SHORT_MONTHS[m[2].lower()]}",
    ),
    (
        re.compile(r"\b(Jan|Feb|Aug|Sept|Oct|Nov|Dec)\."),
        lambda m: _SHORT_MONTHS[m[1].lower()],
    ),
    (re.compile(r"\+\d[\d ()./-]{6,}\d"), lambda m: f"plus {_one_by_one(m[0])}"),
    (re.compile(r"(?<![\d$.,/-])911(?![\d.,/%-]*\d)"), "9 1 1"),
    (re.compile(r"\b([A-Z]{2}) (\d{5})\b"), lambda m: f"{spell(m[1])} {_one_by_one(m[2])}"),
)
_WORDS: tuple[_Rule, ...] = (
    (re.compile(r"\b([CF])#(?!\w)"), lambda m: f"{spell(m[1])} sharp"),
    (re.compile(r"(?<!\w)w/o\b"), "without"),
    (re.compile(r"(?<!\w)w/\s?(?=\w)"), "with "),
    (re.compile(r"\bvs\b(?!\.)", re.IGNORECASE), "versus"),
    (re.compile(r"(?<!\w)&c\b\.?"), "et cetera"),
    (re.compile(r"\bPhD(s?)\b"), r"p h d\1"),
    (
        re.compile(rf"\b((?i:{_keys(_REFERENCES)}))\.\s?(?=\d|[IVXLC]+\b)"),
        lambda m: f"{_REFERENCES[m[1].lower()]} ",
    ),
    (
        re.compile(rf"\b({_keys(_ABBREVIATIONS)})\.(?!\w)", re.IGNORECASE),
        lambda m: _ABBREVIATIONS[m[1].lower()],
    ),
)
_INITIALS = re.compile(r"\b((?:[A-Za-z]\.\s?)+[A-Za-z])\b\.?('s)?|\b(Ph\.\s?D)\b\.?")
_LONE_INITIAL = re.compile(r"\b([B-HJ-Z])\.(?=\s|$)|\b(A)\.(?=\s+[A-Z])")
_LATIN = {"e.g": "for example", "i.e": "that is"}
_LETTER_A = re.compile(r"(?<=[a-z0-9,] )A(?=$|[.,;:!?)]|\s+[a-z])")
_CAPITALS = re.compile(r"(?<!\d)(?!(?<=\d )[KMGT]B\b)\b([A-Z]{2,})(s|'s)?\b")
_LETTERS_AND_DIGITS = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_CODE = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])\w+\b")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th|s)", re.IGNORECASE)
_UNIT_LIKE = re.compile(r"\d+(?:[a-z]{1,3}|[kKMGT]?B|[kMG]?Hz|[kM]?Wh?|V|dB|m?L)")
_CAMEL = re.compile(r"\b[A-Z]?[a-z]+(?:[A-Z][a-z]*)+\b")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def read_written_forms(text: str, known: Container[str] = ()) -> str:
    """Spell out of a sentence what `EnglishNormalizer` does not know.

    Args:
        text: Latin text, see `to_latin`.
        known: lower-case words that can be said as they are.

    >>> read_written_forms("Henry VIII wrote to foo@bar.org about C# on 3/4/2023.")
    'Henry the eighth wrote to foo at bar dot org about c sharp on March 4, 2023.'
    """
    if is_shouted(text):
        text = text.lower()
    text = read_addresses(text)
    for pattern, reading in (*_DATES, *_ARITHMETIC, *_QUANTITIES, *_WORDS):
        text = pattern.sub(reading, text)
    text = _INITIALS.sub(_initials, text)
    text = _LONE_INITIAL.sub(lambda m: spell(m[1] or m[2]), text)
    text = _LETTER_A.sub(spell("A"), text)
    text = read_roman(text)
    text = _CODE.sub(lambda m: _code(m[0]), text)
    text = _CAPITALS.sub(lambda m: _acronym(m[1], m[2] or "", known), text)
    return _CAMEL.sub(lambda m: _humps(m[0], known), text)


def is_shouted(text: str) -> bool:
    """Whether a sentence is written in capitals, so that they mark no acronyms.

    >>> is_shouted("STOP IT NOW"), is_shouted("IBM, HP"), is_shouted("The NASA website")
    (True, False, False)
    """
    letters = [char for char in text if char.isalpha()]
    if sum(map(str.isupper, letters)) <= _MAX_SHOUTED_SHARE * len(letters):
        return False
    words = re.findall(r"[A-Z]+", text)
    return any(
        len(word) >= _SHORTEST_SHOUT and _is_sayable(word) and word not in _SPOKEN_ACRONYMS
        for word in words
    )


def _is_sayable(word: str) -> bool:
    """Whether letters look like a word: they have a vowel, and no more than three consonants."""
    lower = word.lower()
    return bool(re.search("[aeiouy]", lower)) and not re.search("[^aeiouy]{5}", lower)


def _initials(match: re.Match[str]) -> str:
    letters = (match[1] or match[3]).replace(" ", "")
    if letters.lower() in _LATIN:
        return _LATIN[letters.lower()]
    return spell(letters.replace(".", "")) + (match[2] or "")


def _acronym(word: str, ending: str, known: Container[str]) -> str:
    """Word of capitals: said if it is emphasised or a word by itself, spelled otherwise."""
    lower = word.lower()
    is_word = word in _SPOKEN_ACRONYMS or (len(word) > _LONGEST_ACRONYM and _is_sayable(word))
    if lower + ending in known and ending and word not in _SPELLED:
        return lower + ending
    if len(word) == 2:
        is_word = word in _EMPHASISED
    elif word not in _SPELLED:
        is_word = is_word or lower in known
    if is_word:
        return lower + ending
    return spell(word) + ("'s" if ending else "")


def _code(word: str) -> str:
    """Letters and digits together: "B2B", "mp3", "iPhone15"; not "21st", "5km" or "3pm"."""
    if _ORDINAL.fullmatch(word) or _UNIT_LIKE.fullmatch(word):
        return word
    parts = _LETTERS_AND_DIGITS.split(word.replace("_", " "))
    return " ".join(map(_code_part, parts))


def _code_part(part: str) -> str:
    """In words, because a digit before a letter would be a quantity: "H2 O" is not 2 ohms."""
    if part.isdigit():
        is_number = len(part) <= _LONGEST_CODE_NUMBER and not part.startswith("0")
        numbers = [part] if is_number else part
        return " ".join(num2words(int(number)).replace("-", " ") for number in numbers)
    return spell(part) if part.isupper() or not _is_sayable(part) else part


def _humps(word: str, known: Container[str]) -> str:
    return word if word.lower() in known else _HUMP.sub(" ", word)
