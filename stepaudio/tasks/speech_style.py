"""The instruction of a reading voice: which words of it the model knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SYNONYMS = {
    "slow": "slowly", "slower": "slowly", "fast": "quickly", "faster": "quickly",
    "quick": "quickly", "quicker": "quickly", "rapid": "quickly", "rapidly": "quickly",
    "cheerfully": "cheerful", "happily": "happy", "sadly": "sad", "angrily": "angry",
    "quietly": "quiet", "loudly": "loud", "calmly": "calm",
}  # fmt: skip
# They say nothing about how.
_FILLERS = frozenset(
    "a an and aloud at in it more of out pace please read say speak style talk text the this tone"
    " voice way with".split()
)
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


@dataclass(frozen=True)
class SpeechStyle:
    """What becomes of an instruction.

    Attributes:
        used: words that the model is given.
        ignored: words that it does not know, or that contradict one before.
        known: words that it knows; None: any text.
        length: how many times as long the speech becomes.
    """

    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    known: tuple[str, ...] | None = None
    length: float = 1.0

    @property
    def warning(self) -> str | None:
        """One line about the words that are ignored, or None."""
        if not self.ignored:
            return None
        known = ", ".join(self.known or ()) or "none"
        used = ", ".join(self.used) or "none"
        return f"instruction: ignored {', '.join(self.ignored)}; used {used}; known are {known}"


def read_style(instruction: str | None, known: Mapping[str, float] | None) -> SpeechStyle:
    """Find the words of an instruction that a model knows.

    Args:
        instruction: free text such as "slowly, cheerful"; None: no wish.
        known: words, and how many times as long they make speech; None: the model takes any text.

    >>> read_style("Speak slow, cheerful.", {"slowly": 1.3}).warning
    'instruction: ignored cheerful; used slowly; known are slowly'
    """
    names = None if known is None else tuple(sorted(known))
    if instruction is None or not instruction.strip():
        return SpeechStyle(known=names)
    if known is None:
        return SpeechStyle((" ".join(instruction.split()),))
    used: list[str] = []
    ignored: list[str] = []
    length = 1.0
    for word in _WORD.findall(instruction.lower()):
        style = word if word in known else _SYNONYMS.get(word, word)
        if style in used or (style not in known and word in _FILLERS):
            continue
        changes_pace = known.get(style, 1.0) != 1.0
        if style not in known or (changes_pace and length != 1.0):
            ignored.append(word)
            continue
        used.append(style)
        length *= known[style]
    return SpeechStyle(tuple(used), tuple(dict.fromkeys(ignored)), names, length)
