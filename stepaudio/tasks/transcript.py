"""What recognition returns; torch-free, so that writers of results need no model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stepaudio.generation.stats import GenerationStats


@dataclass(frozen=True)
class Word:
    """One word: start and end in seconds, and how sure the alignment is of it, 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float

    def shifted(self, seconds: float) -> Word:
        """The word said so much later."""
        start, end = round(self.start + seconds, 3), round(self.end + seconds, 3)
        return replace(self, start=start, end=end)


@dataclass(frozen=True)
class Segment:
    """One stretch of speech: start and end in seconds, and its text.

    Attributes:
        start: in seconds.
        end: in seconds.
        text: what was said.
        words: its words, if they were asked for.
        confidence: how sure the model is of the whole text, 0 to 1; None: it cannot tell.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True)
class Transcript:
    """What was heard in one recording.

    Attributes:
        text: all segments joined.
        segments: in order; none for silence.
        duration_s: length of the recording.
        stats: cost of the model; of a batch that holds several recordings, their share.
        read_s: seconds spent in decoding, resampling and voice activity detection.
    """

    text: str
    segments: tuple[Segment, ...]
    duration_s: float
    stats: GenerationStats = field(default_factory=GenerationStats)
    read_s: float = 0.0

    @property
    def work_s(self) -> float:
        """Seconds of work; waiting for other recordings is not counted."""
        return self.read_s + self.stats.total_s

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work for a second of audio."""
        return self.work_s / self.duration_s if self.duration_s else 0.0


def join_texts(texts: list[str]) -> str:
    """Join the texts of consecutive segments; no space between Chinese or Japanese ones."""
    joined = ""
    for text in filter(None, texts):
        separator = (
            " " if joined and not (_is_unspaced(joined[-1]) and _is_unspaced(text[0])) else ""
        )
        joined += separator + text
    return joined


def _is_unspaced(character: str) -> bool:
    # CJK punctuation, kana, ideographs; full-width forms.
    return "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"
