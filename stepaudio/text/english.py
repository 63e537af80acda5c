"""English text normalisation: "Dr. Lee paid $5" is "doctor lee paid five dollars".

The readings of numbers, money, times and dates are those of the training texts of nano.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_SIGNS = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u00b4": "'", "`": "'"}
    | {"\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2212": "-"}
    | {"\u2014": " - ", "\u2015": " - ", "\u00b2": " squared", "\u00b3": " cubed"}
    | {"\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4", "\u00ad": None, "\u200b": None}
)
_WORDS = {
    "jr": "junior", "sr": "senior", "prof": "professor", "gov": "governor", "gen": "general",
    "sgt": "sergeant", "capt": "captain", "lt": "lieutenant", "col": "colonel", "rev": "reverend",
    "hon": "honorable", "sen": "senator", "rep": "representative", "ave": "avenue",
    "blvd": "boulevard", "rd": "road", "mt": "mount", "ft": "fort", "inc": "incorporated",
    "ltd": "limited", "corp": "corporation", "dept": "department", "approx": "approximately",
    "est": "established", "vs": "versus",
}  # fmt: skip
# These are read out in full even without their full stop.
_ALWAYS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "etc": "et cetera", "ok": "okay",
}  # fmt: skip
_MONTHS = {
    "jan": "january", "feb": "february", "mar": "march", "apr": "april", "jun": "june",
    "jul": "july", "aug": "august", "sep": "september", "sept": "september", "oct": "october",
    "nov": "november", "dec": "december",
}  # fmt: skip
_MONTH_NAMES = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_SPOKEN_ACRONYMS = frozenset(
    "COVID NASA NATO NASCAR FIFA UNESCO AIDS OK OPEC ZIP PIN RAM IKEA".split()
)
_MAX_SHOUTED_SHARE = 0.4  # a text with more capitals than this is written in capitals
# Case matters: mW and MW, g and G.
_UNITS = {
    "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "m": "meter", "mi": "mile",
    "ft": "foot", "kg": "kilogram", "g": "gram", "mg": "milligram", "lb": "pound", "lbs": "pound",
    "oz": "ounce", "ml": "milliliter", "mL": "milliliter", "l": "liter", "L": "liter",
    "mph": "mile per hour", "km/h": "kilometer per hour", "kph": "kilometer per hour",
    "m/s": "meter per second", "\u00b0C": "degree celsius", "\u00b0F": "degree fahrenheit",
    "\u00b0": "degree", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz",
    "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte",
    "ms": "millisecond", "sec": "second", "min": "minute", "h": "hour", "hr": "hour",
    "hrs": "hour", "W": "watt", "kW": "kilowatt", "MW": "megawatt", "kWh": "kilowatt hour",
    "V": "volt", "dB": "decibel",
}  # fmt: skip
_CURRENCIES = {
    "$": ("dollar", "cent"), "\u00a3": ("pound", "penny"), "\u20ac": ("euro", "cent"),
    "\u00a5": ("yen", "sen"),
}  # fmt: skip
_SCALES = {
    "k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion",
    "tn": "trillion",
}  # fmt: skip
_DENOMINATORS = {2: "half", 4: "quarter"}
_PLURALS = {"half": "halves", "penny": "pence", "foot": "feet", "yen": "yen", "sen": "sen"}
_SYMBOLS = {
    "&": "and", "@": "at", "%": "percent", "+": "plus", "=": "equals", "\u00d7": "times",
    "\u00b0": "degrees",
}  # fmt: skip
_MAX_CARDINAL_DIGITS = 12

_INTEGER = r"(\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_AMOUNT = _INTEGER + r"(?:\.(\d+))?"
_HALF_DAY = r"(?:\s?([ap])\.?\s?m\b\.?)"
_Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


@lru_cache(maxsize=16384)
def _in_words(value: int, kind: str = "cardinal") -> str:
    import num2words

    words: str = num2words.num2words(value, lang="en", to=kind)
    return words.replace("-", " ").replace(",", "")


def _digits(digits: str) -> str:
    return " ".join(_in_words(int(digit)) for digit in digits if digit.isdecimal())


def _amount(whole: str, fraction: str | None = None) -> str:
    digits = whole.replace(",", "")
    one_by_one = len(digits) > _MAX_CARDINAL_DIGITS or (len(digits) > 1 and int(digits[0]) == 0)
    words = _digits(digits) if one_by_one else _in_words(int(digits))
    return f"{words} point {_digits(fraction)}" if fraction else words


def _plural(unit: str) -> str:
    """Plural of a unit, whose first word counts: miles per hour, degrees celsius."""
    first, _, rest = unit.partition(" ")
    if rest == "hour":  # kilowatt hour
        return f"{first} hours"
    many = first if first.endswith("hertz") else _PLURALS.get(first, f"{first}s")
    return f"{many} {rest}".strip()


def _counted(unit: str, whole: str, fraction: str | None = None) -> str:
    one = fraction is None and int(whole.replace(",", "")) == 1
    return f"{_amount(whole, fraction)} {unit if one else _plural(unit)}"


def _money(match: re.Match[str]) -> str:
    symbol, whole, fraction, scale = match.groups()
    unit, subunit = _CURRENCIES[symbol]
    if scale or (fraction and len(fraction) != 2):
        scale = _SCALES.get((scale or "").lower(), scale or "")
        return f" {_amount(whole, fraction)} {scale} {_plural(unit)} "
    parts = [_counted(unit, whole)]
    if fraction and int(fraction):
        cents = _counted(subunit, str(int(fraction)))
        parts = [cents] if int(whole.replace(",", "")) == 0 else [*parts, cents]
    return f" {' and '.join(parts)} "


def _money_behind(match: re.Match[str]) -> str:
    whole, fraction, symbol = match.groups()
    return f" {_counted(_CURRENCIES[symbol][0], whole, fraction)} "


def _clock(match: re.Match[str]) -> str:
    hour, minute, second, half = match.groups()
    words = _in_words(int(hour))
    if int(minute) or second:
        words += f" {'oh ' if 0 < int(minute) < 10 else ''}{_in_words(int(minute))}"
    elif not half:
        words += " o'clock" if 1 <= int(hour) <= 12 else " hundred"
    if second:
        words += f" and {_counted('second', second)}"
    return f" {words} {f'{half.lower()} m' if half else ''} "


def _iso_date(match: re.Match[str]) -> str:
    year, month, day = (int(part) for part in match.groups())
    if not 1 <= month <= len(_MONTH_NAMES):
        return " ".join(_in_words(part) for part in (year, month, day))
    name = _MONTH_NAMES[month - 1]
    return f" {name} {_in_words(day, 'ordinal')} {_in_words(year, 'year')} "


def _decade(match: re.Match[str]) -> str:
    words = _in_words(int(match[1]), "year")
    return f" {words[:-1]}ies " if words.endswith("y") else f" {words}s "


def _fraction(match: re.Match[str]) -> str:
    upper, lower = int(match[1]), int(match[2])
    if not 1 < lower <= 100 or upper >= lower:
        return f" {_amount(match[1])} {_amount(match[2])} "
    name = _DENOMINATORS.get(lower) or _in_words(lower, "ordinal")
    return f" {_in_words(upper)} {name if upper == 1 else _PLURALS.get(name, f'{name}s')} "


def _plain(match: re.Match[str]) -> str:
    """A number without any hint: 1100 to 2099 are years, 1.2.3 is a version."""
    first, *others = match[0].split(".")
    if len(others) > 1:
        return f" {' point '.join(_amount(part) for part in (first, *others))} "
    if not others and re.fullmatch(r"1[1-9]\d\d|20\d\d", first):
        return f" {_in_words(int(first), 'year')} "
    return f" {_amount(first, *others)} "


_RULES: tuple[_Rule, ...] = (
    (
        re.compile(r"(?:\+?\b\d{1,2}[- ])?\(?\b\d{3}\)?[- .]\d{3}[- .]\d{4}\b|\b\d{3}-\d{4}\b"),
        lambda m: f" {_digits(m[0])} ",
    ),
    (
        re.compile(
            rf"([{''.join(_CURRENCIES)}])\s?{_AMOUNT}"
            r"(?:\s?(hundred|thousand|million|billion|trillion|mn|bn|tn|[kmb])\b)?",
            re.IGNORECASE,
        ),
        _money,
    ),
    (re.compile(rf"{_AMOUNT}\s?([{''.join(_CURRENCIES)}])"), _money_behind),
    (
        re.compile(rf"\b([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?{_HALF_DAY}?", re.IGNORECASE),
        _clock,
    ),
    (
        re.compile(rf"\b(\d{{1,2}}){_HALF_DAY}", re.IGNORECASE),
        lambda m: f" {_amount(m[1])} {m[2].lower()} m ",
    ),
    (
        re.compile(rf"\b({'|'.join(_MONTH_NAMES)})\s+(\d{{1,2}})\b(?![\d:.,]\d)", re.IGNORECASE),
        lambda m: f"{m[1]} {_in_words(int(m[2]), 'ordinal')} ",
    ),
    (
        re.compile(rf"\b(\d{{1,2}})\s+({'|'.join(_MONTH_NAMES)})\b", re.IGNORECASE),
        lambda m: f" {_in_words(int(m[1]), 'ordinal')} {m[2]}",
    ),
    (re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b"), _iso_date),
    (
        re.compile(rf"\b{_INTEGER}(?:st|nd|rd|th)\b", re.IGNORECASE),
        lambda m: f" {_in_words(int(m[1].replace(',', '')[-_MAX_CARDINAL_DIGITS:]), 'ordinal')} ",
    ),
    (re.compile(r"\b((?:1[1-9]|20)\d0)'?s\b"), _decade),
    (re.compile(r"(?<!\d)'?\b([2-9]0)'?s\b"), _decade),
    (re.compile(r"(?:\bno\.\s?|\bnos\.\s?|#\s?)(?=\d)", re.IGNORECASE), lambda m: " number "),
    (re.compile(r"(?<![\w.)])-(?=\d)"), lambda m: " minus "),
    (re.compile(r"(?<=\d)\s?-\s?(?=\d)"), lambda m: " to "),
    (
        re.compile(
            rf"{_AMOUNT}\s?({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})"
            r"(?![\w/])"
        ),
        lambda m: f" {_counted(_UNITS[m[3]], m[1], m[2])} ",
    ),
    (re.compile(r"(?<![\d/])(\d{1,3})/(\d{1,3})(?![\d/])"), _fraction),
    (re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)*"), _plain),
)
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.\s?){2,}|\bPh\.\s?D\b\.?")
_LATIN = {"e.g.": "for example ", "i.e.": "that is "}
_STREET = re.compile(r"\b(St|Dr)\b\.")
_ABBREVIATION = re.compile(rf"\b({'|'.join(_WORDS)})\.", re.IGNORECASE)
_MONTH = re.compile(rf"\b({'|'.join(_MONTHS)})\b\.?(?=\s+\d)", re.IGNORECASE)
_DOT = re.compile(r"(?<=\w)\.(?=(?:com|org|net|edu|gov|io)\b)", re.IGNORECASE)
_ACRONYM = re.compile(r"\b([A-Z]{2,5})(s?)\b")
_TAG = re.compile(r"\[[^\]]*\]|<[^>]*>")
_NOT_SPOKEN = re.compile(r"[^\w']|[\d_]")
_LONE_APOSTROPHE = re.compile(r"(?<!\w)'+|'+(?!\w)")
_NUMBER_AND = re.compile(
    r"\b(hundred|thousand|million|billion) and (?=(?:one|two|three|four|five|six|seven|eight|nine"
    r"|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)\b)"
)


def _street_or_title(match: re.Match[str]) -> str:
    """Read "St." and "Dr." by what stands behind them: a name, or the end of an address."""
    titled = re.match(r"\s+[A-Z]", match.string[match.end() :]) is not None
    if match[1] == "St":
        return "Saint" if titled else "Street"
    after_name = re.search(r"[A-Z]\w*\s+$", match.string[: match.start()]) is not None
    return "Drive" if after_name and not titled else "Doctor"


def _spell_acronyms(text: str) -> str:
    num_capitals = sum(char.isupper() for char in text)
    if num_capitals > _MAX_SHOUTED_SHARE * sum(char.isalpha() for char in text):
        return text

    def spell(match: re.Match[str]) -> str:
        if match[1] in _SPOKEN_ACRONYMS:
            return match[0]
        return " ".join(match[1]) + ("'s" if match[2] else "")

    return _ACRONYM.sub(spell, text)


def _fold_accents(text: str) -> str:
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


class EnglishNormalizer:
    """English rules; see `stepaudio.text.normalize.TextNormalizer`."""

    def written_to_spoken(self, text: str) -> str:
        """Spell out numbers, money, times, dates, units, abbreviations and acronyms.

        Gives lower-case words parted by single spaces. Apostrophes stay inside words, hyphens
        become spaces, accents are dropped.

        >>> EnglishNormalizer().written_to_spoken("Dr. Lee's 2nd train left at 10:05, 5% full.")
        "doctor lee's second train left at ten oh five five percent full"
        """
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
        for written, spoken in _LATIN.items():
            text = text.replace(written, spoken)
        text = _INITIALS.sub(lambda m: " ".join(m[0].replace(".", "").replace(" ", "")) + " ", text)
        text = _STREET.sub(_street_or_title, text)
        text = _MONTH.sub(lambda m: _MONTHS[m[1].lower()], text)
        for pattern, reading in _RULES:
            text = pattern.sub(reading, text)
        text = _ABBREVIATION.sub(lambda m: _WORDS[m[1].lower()] + " ", text)
        text = _DOT.sub(" dot ", _spell_acronyms(text))
        for symbol, word in _SYMBOLS.items():
            text = text.replace(symbol, f" {word} ")
        text = _fold_accents(_fold_accents(text).lower())
        text = _LONE_APOSTROPHE.sub(" ", _NOT_SPOKEN.sub(" ", text))
        return " ".join(_ALWAYS.get(word, word) for word in text.split())

    def for_scoring(self, text: str) -> str:
        """As spoken, without tags and without the "and" of "one hundred and five"."""
        return _NUMBER_AND.sub(r"\1 ", self.written_to_spoken(_TAG.sub(" ", text)))
