"""Recordings on their way to transcripts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stepaudio.audio.decoding import AudioSource, source_name
from stepaudio.errors import StepAudioError
from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.transcript import Segment, Transcript, join_texts

# Called with the number of a recording and the share of it that is done, 0 to 1.
ProgressCallback = Callable[[int, float], None]


@dataclass(frozen=True)
class Recording:
    """What to transcribe.

    Attributes:
        source: path, bytes or binary file object of an audio file.
        name: what error messages call it; None: its path.
    """

    source: AudioSource
    name: str | None = None


@dataclass
class Job:
    """A recording on its way to a transcript."""

    index: int
    recording: Recording
    announced_s: float = 0.0
    duration_s: float = 0.0
    read_s: float = 0.0
    stats: GenerationStats = field(default_factory=GenerationStats)
    segments: list[Segment] = field(default_factory=list)
    num_waiting: int = 0  # windows that are read but not transcribed
    ended: bool = False
    error: StepAudioError | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.ended and self.num_waiting == 0

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self.recording.name or source_name(self.recording.source)

    def outcome(self) -> Transcript | StepAudioError:
        """Its transcript, or what went wrong."""
        if self.error is not None:
            return self.error
        segments = sorted(self.segments, key=lambda segment: segment.start)
        text = join_texts([segment.text for segment in segments])
        return Transcript(text, tuple(segments), self.duration_s, self.stats, self.read_s)


def take_complete(unfinished: deque[Job]) -> Iterator[Transcript | StepAudioError]:
    """Results of the first jobs, as far as these are complete."""
    while unfinished and unfinished[0].is_complete:
        yield unfinished.popleft().outcome()
