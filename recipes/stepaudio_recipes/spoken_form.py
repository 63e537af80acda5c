"""English text as it is spoken: the form of the training targets.

Lower case, no punctuation but apostrophes inside words, numbers spelled out, abbreviations
expanded and acronyms as single letters ("NFL" becomes "n f l"), so that a synthesizer given this
form says exactly these words.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

import num2words

_QUOTES_AND_DASHES = str.maketrans(
    {"\r": " ", "‘": "'", "’": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "–": "-", "—": " - "}
    | {"…": "...", "\u00a0": " ", "\u200b": None, "\ufeff": None}
)
_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "ms", "dr": "doctor", "prof": "professor",
    "jr": "junior", "sr": "senior", "vs": "versus", "etc": "et cetera", "ave": "avenue",
    "blvd": "boulevard", "rd": "road", "ft": "fort", "mt": "mount", "gov": "governor",
    "gen": "general", "sgt": "sergeant", "capt": "captain", "lt": "lieutenant",
    "inc": "incorporated", "ltd": "limited", "dept": "department", "approx": "approximately",
}  # fmt: skip
_ABBREVIATION = re.compile(
    r"\b(" + "|".join(_ABBREVIATIONS) + r")\.(?=\s|,|$)(?!\s*$)", re.IGNORECASE
)
_SAINT = re.compile(r"\bSt\.?(?=\s+[A-Z])")
_STREET = re.compile(r"(?<=\w )\bSt\b\.?")
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.){2,}(?:[A-Za-z]\b)?")
_INITIAL = re.compile(r"\b([A-Z])\.(?=\s*[A-Z])")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+|\n+")

# Acronyms read as words, and the ones whose written form is a word of its own.
_SPOKEN_AS_WORDS = frozenset(
    "NASA NATO NASCAR FIFA UNESCO AIDS OK TV OPEC LASER RADAR SCUBA ZIP PIN RAM IKEA".split()
)
_ACRONYM = re.compile(r"\b([A-Z]{2,5})(s?)\b")
_MAX_SHOUTED_SHARE = 0.4

_MONTHS = (
    "(?:january|february|march|april|may|june|july|august|september|october|november|december)"
)
_AMOUNT = r"(\d[\d,]*)(?:\.(\d+))?"
_SCALE = r"(?:\s?(hundred|thousand|million|billion|trillion|[kmb])\b)?"
_SCALE_LETTERS = {"k": "thousand", "m": "million", "b": "billion"}
_CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_NUMBER_SIGN = re.compile(r"(?:#\s?|\b[Nn]os?\.\s?)(?=\d)")
_UNSPEAKABLE = re.compile(
    r"https?:|www\.|\S@\S|\.(?:com|org|net)\b|[<>{}\[\]=\\^_|~#*]|\d/\d", re.IGNORECASE
)
# Typed without an apostrophe these are no other English word (or one that nobody says).
_CONTRACTIONS = {
    word.replace("'", ""): word
    for word in (
        "don't didn't doesn't isn't wasn't aren't weren't hasn't haven't hadn't won't wouldn't"
        " can't couldn't shouldn't i'm i've you're you've they're they've he's that's there's"
        " what's"
    ).split()
}
_RESPELLED = {**_CONTRACTIONS, "ok": "okay"}
_TRAINING_FORM = re.compile(r"[a-z]+(?:'[a-z]+)*(?: [a-z]+(?:'[a-z]+)*)*")
_PUNCTUATION = re.compile(r"[-/.,;:!?\"()%]")
_LOOSE_APOSTROPHE = re.compile(r"(?<![a-z])'+|'+(?![a-z])")
_DIGIT = re.compile(r"\d")
_MAX_CARDINAL_DIGITS = 12


@lru_cache(maxsize=16384)
def number_in_words(value: int, to: str = "cardinal") -> str:
    """Spell out `value`; `to` is "cardinal", "ordinal" or "year"."""
    words: str = num2words.num2words(value, lang="en", to=to)
    return words.replace("-", " ").replace(",", "")


def digits_in_words(digits: str) -> str:
    """Spell out a digit string one digit at a time ("408" is "four zero eight")."""
    return " ".join(number_in_words(int(digit)) for digit in digits if digit.isdigit())


def _amount_in_words(whole: str, fraction: str | None = None) -> str:
    digits = whole.replace(",", "")
    if len(digits) > _MAX_CARDINAL_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        words = digits_in_words(digits)
    else:
        words = number_in_words(int(digits))
    return f"{words} point {digits_in_words(fraction)}" if fraction else words


def _plural(unit: str, count: int) -> str:
    if count == 1:
        return unit
    return "pence" if unit == "penny" else f"{unit}s"


def _money(match: re.Match[str]) -> str:
    symbol, whole, fraction, scale = match.groups()
    unit, subunit = _CURRENCIES[symbol]
    scale = scale and _SCALE_LETTERS.get(scale.lower(), scale)
    if scale or (fraction and len(fraction) != len("00")):
        return f" {_amount_in_words(whole, fraction)} {scale or ''} {unit}s "
    count, cents = int(whole.replace(",", "")), int(fraction or 0)
    words = f" {_amount_in_words(whole)} {_plural(unit, count)} "
    return f"{words}and {number_in_words(cents)} {_plural(subunit, cents)} " if cents else words


def _clock(match: re.Match[str]) -> str:
    hour, minute, half = int(match[1]), int(match[2]), match[3]
    words = number_in_words(hour)
    if minute:
        words += f" {'oh ' if minute < 10 else ''}{number_in_words(minute)}"
    elif not half:
        words += " o'clock" if 1 <= hour <= 12 else " hundred"
    return f" {words}{f' {half.lower()} m' if half else ''} "


def _decade(match: re.Match[str]) -> str:
    words = number_in_words(int(match[1]), "year")
    return f" {words[:-1]}ies " if words.endswith("y") else f" {words}s "


_NUMBER_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"(?:\+?\b1[- ])?\(?\b\d{3}\)?[- .]\d{3}[- .]\d{4}\b"),
        lambda m: f" {digits_in_words(m[0])} ",
    ),
    (re.compile(r"([$£€])\s?" + _AMOUNT + _SCALE, re.IGNORECASE), _money),
    (re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)(?:\s*([ap])\.?m\b\.?)?", re.IGNORECASE), _clock),
    (
        re.compile(r"\b(\d{1,2})\s*([ap])\.?m\b\.?", re.IGNORECASE),
        lambda m: f" {_amount_in_words(m[1])} {m[2].lower()} m ",
    ),
    (
        re.compile(rf"\b({_MONTHS})\s+(\d{{1,2}})\b(?![\d:.]\d|st|nd|rd|th)", re.IGNORECASE),
        lambda m: f"{m[1]} {number_in_words(int(m[2]), 'ordinal')} ",
    ),
    (
        re.compile(rf"\b(\d{{1,2}})\s+(?={_MONTHS})", re.IGNORECASE),
        lambda m: f"{number_in_words(int(m[1]), 'ordinal')} ",
    ),
    (
        re.compile(r"\b(\d{1,9})(?:st|nd|rd|th)\b", re.IGNORECASE),
        lambda m: f" {number_in_words(int(m[1]), 'ordinal')} ",
    ),
    (re.compile(r"\b((?:1[1-9]|20)\d0)'?s\b"), _decade),
    (re.compile(r"(?<!\d)'?\b([2-9]0)'?s\b"), _decade),
    (re.compile(_AMOUNT + r"\s?%"), lambda m: f" {_amount_in_words(m[1], m[2])} percent "),
    (
        re.compile(r"(?<![\d,.])(1[1-9]\d\d|20\d\d)(?![\d,]*\d|\.\d)"),
        lambda m: f" {number_in_words(int(m[1]), 'year')} ",
    ),
    (re.compile(_AMOUNT), lambda m: f" {_amount_in_words(m[1], m[2])} "),
)


def _fold_to_ascii(text: str) -> str:
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _expand_abbreviations(text: str) -> str:
    text = _NUMBER_SIGN.sub("number ", text)
    if "." not in text and "St" not in text:
        return text
    text = _ABBREVIATION.sub(lambda m: _ABBREVIATIONS[m[1].lower()], text)
    text = _SAINT.sub("Saint", text)
    text = _STREET.sub("Street", text)
    text = _INITIALS.sub(lambda m: " ".join(m[0].replace(".", "")), text)
    return _INITIAL.sub(r"\1 ", text)


def _spell_acronyms(text: str) -> str:
    if not _ACRONYM.search(text):
        return text
    num_capitals = sum(char.isupper() for char in text)
    if num_capitals > _MAX_SHOUTED_SHARE * sum(char.isalpha() for char in text):
        return text

    def spell(match: re.Match[str]) -> str:
        if match[1] in _SPOKEN_AS_WORDS:
            return match[0]
        return " ".join(match[1]) + ("'s" if match[2] else "")

    return _ACRONYM.sub(spell, text)


def split_sentences(text: str) -> list[str]:
    """Cut a paragraph at sentence ends; abbreviations and initials do not end a sentence."""
    expanded = _expand_abbreviations(text.translate(_QUOTES_AND_DASHES))
    parts = (part.strip() for part in _SENTENCE_END.split(expanded))
    return [part for part in parts if part]


def spoken_form(text: str) -> str | None:
    """Return `text` in the training form, or None if it cannot be read aloud for certain.

    Refused are other scripts, addresses of the web, mark-up and fractions or dates with slashes.
    """
    # Currency signs are read before folding, which has no ASCII form for them.
    text = unicodedata.normalize("NFC", text).translate(_QUOTES_AND_DASHES)
    text = _spell_acronyms(_expand_abbreviations(text))
    if _UNSPEAKABLE.search(text):
        return None
    if _DIGIT.search(text):
        for pattern, replacement in _NUMBER_RULES:
            text = pattern.sub(replacement, text)
    text = _fold_to_ascii(text)
    if not text.isascii():
        return None
    text = text.lower().replace("&", " and ").replace("+", " plus ").replace("@", " at ")
    text = _PUNCTUATION.sub(" ", text)
    text = _LOOSE_APOSTROPHE.sub("", text)
    text = " ".join(_RESPELLED.get(word, word) for word in text.split())
    return text if _TRAINING_FORM.fullmatch(text) else None
