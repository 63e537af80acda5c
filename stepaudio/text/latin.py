"""Any text to plain Latin letters, digits and the signs that English readings know.

Accents are dropped, letters of other scripts are transliterated, pictures are left out; nothing
that a file or a terminal may hold makes it fail.
"""

from __future__ import annotations

import re
import unicodedata

from anyascii import anyascii

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma"
    " sigma tau upsilon phi chi psi omega".split()
)
_SMALL_ALPHA, _CAPITAL_ALPHA = 0x3B1, 0x391
_NAMES = {
    "\u00b5": "micro", "\u00a9": " copyright ", "\u00a7": " section ", "\u2116": " number ",
    "\u2030": " per mille ", "\u221e": " infinity ", "\u221a": " square root of ",
    "\u00b1": " plus or minus ", "\u00f7": " divided by ", "\u2260": " is not equal to ",
    "\u2248": " about ", "\u2264": " at most ", "\u2265": " at least ", "\u2192": " - ",
    "\u2190": " - ", "\u2026": "...", "\u00a2": " cents ", "\u20b9": " rupees ",
    "\u20bd": " rubles ", "\u20a9": " won ", "\u20ba": " lira ", "\u20bf": " bitcoin ",
    "\u2122": "", "\u00ae": "", "\u2032": "'", "\u2033": '"', "\u00ab": '"', "\u00bb": '"',
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2044": "/", "\u3002": ". ", "\uff0c": ", ",
    "\u3001": ", ", "\u061f": "? ", "\u060c": ", ", "\u0964": ". ", "\u00bf": "", "\u00a1": "",
}  # fmt: skip
# What `EnglishNormalizer` reads itself.
_KEPT = frozenset("\u00a3\u20ac\u00a5\u00d7\u00b0\u00b2\u00b3\u00bd\u00bc\u00be\u2018\u2019")
_DASHES = re.compile(r"[\u2012-\u2015\u2212]")
_GREEK_LETTER = re.compile(r"(?<![^\W\d_])[\u0391-\u03a9\u03b1-\u03c9](?![^\W\d_])")
_FOREIGN = re.compile(rf"(?:[A-Za-z]|[^\x00-\x7f{''.join(_KEPT)}])+")
_UNKNOWN = re.compile(rf"[^\x00-\x7f{''.join(_KEPT)}]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def to_latin(text: str) -> str:
    """Rewrite a text in ASCII and the few signs beyond it that English readings know.

    >>> to_latin("Dvořák met Юрий at 5 µm \U0001f600")
    'Dvorak met Yuriy at 5 microm  '
    """
    if text.isascii():
        return "".join(char if char.isprintable() else " " for char in text)
    text = unicodedata.normalize("NFC", text)
    text = _DASHES.sub(lambda m: "-" if m[0] in "\u2012\u2013\u2212" else " - ", text)
    text = _GREEK_LETTER.sub(lambda m: f" {_greek(m[0])} ", text)
    text = _FOREIGN.sub(_transliterated, "".join(map(_plain, text)))
    return _UNKNOWN.sub(" ", text)


def _greek(letter: str) -> str:
    code = ord(letter)
    return _GREEK[code - (_SMALL_ALPHA if code >= _SMALL_ALPHA else _CAPITAL_ALPHA)]


def _plain(char: str) -> str:
    """A character by itself: letters stay, signs become known ones, pictures white space."""
    if char.isascii():
        return char if char.isprintable() else " "
    if char in _KEPT:
        return char
    if char in _NAMES:
        return _NAMES[char]
    kind = unicodedata.category(char)
    if kind == "Nd":
        return str(unicodedata.digit(char))
    if kind in ("No", "Nl") or unicodedata.decomposition(char).startswith(("<wide", "<compat")):
        return unicodedata.normalize("NFKC", char).replace("\u2044", "/")
    if kind == "Cf":  # joins what it stands between
        return ""
    return char if kind[0] in "LM" else anyascii(char) if kind[0] == "P" else " "


def _transliterated(match: re.Match[str]) -> str:
    word = match[0]
    if word.isascii():
        return word
    return _CAMEL.sub(" ", anyascii(word)) if _is_dense(word) else anyascii(word)


def _is_dense(word: str) -> bool:
    """Whether every character is a syllable, which anyascii capitalises instead of parting."""
    return any("\u2e80" <= char <= "\ud7ff" or char > "\uffff" for char in word)
