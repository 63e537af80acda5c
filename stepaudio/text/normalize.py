"""Text as it is written to text as it is spoken, per language."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from stepaudio.errors import ConfigError


class TextNormalizer(Protocol):
    """Rules of one language."""

    def written_to_spoken(self, text: str) -> str:
        """Spell out everything as it is read aloud: lower case, no punctuation, no digits.

        Spoken text comes back as it is.
        """
        ...

    def for_scoring(self, text: str) -> str:
        """Bring a reference or a hypothesis to the form in which errors are counted.

        As `written_to_spoken`; besides, tags such as "[noise]" go and ways of saying the same that
        no one wants counted as an error become one.
        """
        ...


def _english() -> TextNormalizer:
    from stepaudio.text.english import EnglishNormalizer

    return EnglishNormalizer()


def _chinese() -> TextNormalizer:
    from stepaudio.text.chinese import ChineseNormalizer

    return ChineseNormalizer()


_LANGUAGES: dict[str, Callable[[], TextNormalizer]] = {"en": _english, "zh": _chinese}


@lru_cache(maxsize=8)
def get_normalizer(language: str) -> TextNormalizer:
    """Return the normaliser of a language.

    Args:
        language: code such as "en", "zh", "en-US" or "zh_CN"; the region is ignored.

    Raises:
        ConfigError: there are no rules for the language; names the known ones.
    """
    code = language.replace("_", "-").split("-")[0].strip().lower()
    if code not in _LANGUAGES:
        known = ", ".join(sorted(_LANGUAGES))
        raise ConfigError(f"language {language!r}: no text normaliser, known are {known}")
    return _LANGUAGES[code]()
