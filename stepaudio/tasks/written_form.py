"""Transcripts as people write: figures, capitals and full stops.

Punctuation comes from pauses and a few rules, not from a model that knows the language: every
stretch of speech becomes a sentence, and is cut where the speaker paused. There are no commas, and
a speaker who pauses inside of a sentence is cut there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stepaudio.tasks.transcript import Segment, Transcript, Word, join_texts
from stepaudio.text.inverse_english import inverse_normalize

_SENTENCE_PAUSE_S = 0.6
_MIN_SENTENCE_WORDS = 3
_QUESTION = re.compile(
    r"(who|what|where|when|why|how|which|whose)('s|'re| (is|are|was|were|do|does|did|can|could|will"
    r"|would|should|has|have|many|much|long|old|far|time)\b)"
    r"|(is|are|was|were|do|does|did|can|could|will|would|should|have|has) (you|he|she|it|we|they|i"
    r"|there|this|that)\b"
)
_CAPITALS = frozenset(
    "i i'm i've i'll i'd january february april june july august september october november"
    " december monday tuesday wednesday thursday friday saturday sunday english american".split()
)


@dataclass(frozen=True)
class WrittenForm:
    """What is done to transcripts.

    Attributes:
        figures: numbers, money, times and dates as figures.
        punctuation: capitals and sentence ends.
    """

    figures: bool = False
    punctuation: bool = False

    def __bool__(self) -> bool:
        return self.figures or self.punctuation

    def apply(self, transcript: Transcript) -> Transcript:
        """The transcript in written form; words with times stay as they were heard."""
        if not self:
            return transcript
        segments = tuple(
            replace(segment, text=self._segment_text(segment)) for segment in transcript.segments
        )
        text = join_texts([segment.text for segment in segments])
        return replace(transcript, text=text, segments=segments)

    def _segment_text(self, segment: Segment) -> str:
        sentences = [segment.text]
        if self.punctuation:
            sentences = _sentences(segment.text, segment.words)
        if self.figures:
            sentences = [inverse_normalize(sentence) for sentence in sentences]
        if self.punctuation:
            sentences = [_punctuated(sentence) for sentence in sentences]
        return " ".join(sentences)


def _sentences(text: str, words: Sequence[Word]) -> list[str]:
    """Text cut at the long pauses between its words, where their times are known."""
    if [word.text for word in words] != text.split():
        return [text]
    sentences: list[list[str]] = [[]]
    for place, word in enumerate(words):
        pause = word.start - words[place - 1].end if place else 0.0
        is_long = len(sentences[-1]) >= _MIN_SENTENCE_WORDS <= len(words) - place
        if pause >= _SENTENCE_PAUSE_S and is_long:
            sentences.append([])
        sentences[-1].append(word.text)
    return [" ".join(sentence) for sentence in sentences]


def _punctuated(sentence: str) -> str:
    words = [word.capitalize() if word in _CAPITALS else word for word in sentence.split()]
    if not words:
        return ""
    text = " ".join(words)
    end = "?" if _QUESTION.match(sentence) else "" if text.endswith(".") else "."
    return text[0].upper() + text[1:] + end
