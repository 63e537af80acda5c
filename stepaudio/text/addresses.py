"""Addresses of the web, of mail and of people in networks, as they are read out."""

from __future__ import annotations

import re

_ADDRESS = re.compile(
    r"(?:https?|ftp)://[^\s<>\"]+|\bwww\.[^\s<>\"]+|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.IGNORECASE
)
_DOMAIN = re.compile(
    r"\b(?:[A-Za-z0-9-]+\.)+(?:com|org|net|edu|gov|io|uk|de|fr|co|ai|us|eu|ca|info|dev|app|me|tv)"
    r"\b(?:/[^\s<>\"]*)?",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"^(?:https?|ftp)://", re.IGNORECASE)
_TAIL = re.compile(r"[.,;:!?)\]'\"]+$")
_FILE = re.compile(r"\b(?=\w*[a-z])(\w{2,})\.(?=[a-z]{2,4}\b)(?!com\b)([a-z]{2,4})\b")
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_HASHTAG = re.compile(r"(?<![\w&])#(?=[A-Za-z])(\w+)")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")
_PART = re.compile(r"[A-Za-z]+|\d+|[^A-Za-z\d]")
_SIGNS = {
    ".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", ":": "colon",
    "?": "question mark", "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus",
    "~": "tilde",
}  # fmt: skip
_SPOKEN_ENDINGS = frozenset({"com", "org", "net", "edu", "gov", "co", "info", "dev", "app", "me"})


def spell(letters: str) -> str:
    """Names of letters; the letter A is written "ay", because "a" is the article.

    >>> spell("AB")
    'ay b'
    """
    return " ".join("ay" if letter == "a" else letter for letter in letters.lower())


def read_addresses(text: str) -> str:
    """Read every address, file name, mention and hashtag of a text.

    >>> read_addresses("See https://bbc.co.uk/news, or ask @me.")
    'See b b c dot co dot u k slash news, or ask at me.'
    """
    text = _ADDRESS.sub(_address, text)
    text = _DOMAIN.sub(_address, text)
    text = _HASHTAG.sub(lambda m: f"hashtag {_HUMP.sub(' ', m[1])}", text)
    text = _MENTION.sub("at ", text)
    return _FILE.sub(_file, text)


def _address(match: re.Match[str]) -> str:
    address = match[0]
    tail = _TAIL.search(address)
    end = tail.group() if tail is not None else ""
    address = _SCHEME.sub("", address.removesuffix(end)).rstrip("/")
    return " ".join(_part(part) for part in _PART.findall(address)) + end


def _part(part: str) -> str:
    if part.isdigit():
        return " ".join(part)
    if not part.isalpha():
        return _SIGNS.get(part, "")
    lower = part.lower()
    is_country = len(part) == 2 and lower not in _SPOKEN_ENDINGS
    if lower == "www" or is_country or not re.search("[aeiouy]", lower):
        return spell(part)
    return lower


def _file(match: re.Match[str]) -> str:
    name, ending = match[1], match[2]
    if len(ending) == 2 or not re.search("[aeiouy]", ending):
        ending = spell(ending)
    return f"{name.replace('_', ' ')} dot {ending}"
