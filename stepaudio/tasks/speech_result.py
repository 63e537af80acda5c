"""What was spoken, how good it is and what it cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor

from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.speech_check import SpeechProblem
from stepaudio.tasks.speech_style import SpeechStyle


@dataclass
class SpeechStats:
    """Times of some speech.

    Attributes:
        generation: what the audio codes cost, that of attempts that were thrown away included.
        vocode_s: seconds from codes to sound.
        speech_s: seconds of sound.
        retries: sentences that were generated again.
        first_sound_s: seconds until the first sound, where it was streamed.
    """

    generation: GenerationStats = field(default_factory=GenerationStats)
    vocode_s: float = 0.0
    speech_s: float = 0.0
    retries: int = 0
    first_sound_s: float | None = None

    @property
    def total_s(self) -> float:
        """Seconds of work."""
        return self.generation.total_s + self.vocode_s

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work for one second of sound; 0 without sound."""
        return self.total_s / self.speech_s if self.speech_s else 0.0

    def values(self) -> dict[str, object]:
        """All numbers, for JSON."""
        return {**dataclasses.asdict(self), "total_s": self.total_s, "rtf": self.rtf}


@dataclass(frozen=True)
class SpokenSentence:
    """One generated piece of a text.

    Attributes:
        text: what was to be said.
        codes: its audio codes, 25 for a second.
        seed: of the codes that were kept.
        attempts: how often it was generated.
        problems: what is wrong with it.
        start_s: where it begins in the sound.
    """

    text: str
    codes: tuple[int, ...]
    seed: int
    attempts: int = 1
    problems: tuple[SpeechProblem, ...] = ()
    start_s: float = 0.0


@dataclass(frozen=True)
class SpokenText:
    """A text as sound.

    Attributes:
        samples: float32 [samples] at `sample_rate`.
        sample_rate: in Hz.
        sentences: what it consists of, in order; pauses lie between them.
        style: what became of the instruction.
        stats: what it cost.
    """

    samples: Tensor
    sample_rate: int
    sentences: tuple[SpokenSentence, ...]
    style: SpeechStyle
    stats: SpeechStats

    @property
    def text(self) -> str:
        """What was to be said, sentence by sentence on one line."""
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def codes(self) -> tuple[int, ...]:
        """Audio codes of all sentences."""
        return tuple(code for sentence in self.sentences for code in sentence.codes)

    @property
    def problems(self) -> tuple[SpeechProblem, ...]:
        """Problems of all sentences."""
        return tuple(problem for sentence in self.sentences for problem in sentence.problems)

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / self.sample_rate

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for every problem."""
        return tuple(
            f'"{_shortened(sentence.text)}": {problem.detail} ({problem.kind})'
            for sentence in self.sentences
            for problem in sentence.problems
        )


def _shortened(text: str, size: int = 40) -> str:
    return text if len(text) <= size else f"{text[: size - 3].rstrip()}..."
