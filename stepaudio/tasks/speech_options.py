"""How texts are spoken: cutting, sampling, checks and pauses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.speech_check import CheckOptions
from stepaudio.text.speech_text import Pause, SpeechTextOptions


@dataclass(frozen=True, kw_only=True)
class SpeechOptions:
    """Options of a `Synthesizer`.

    Attributes:
        temperature: of the audio codes; 0 takes the most probable one; None: as the checkpoint
            wants it.
        top_p: sample from the smallest set of codes that has this probability.
        top_k: sample from so many most probable codes; 0: from all.
        repetition_window: latest tokens in which a code may not become too frequent; 0: any.
        max_repetition: share of the window that one code may have.
        max_hold: longest stretch of few different codes, in codes; sampling leaves them then, or
            ends. Recorded sentences have 14 at most.
        takes: how often every sentence is generated; the model's own recogniser chooses the take
            that it understands best. None: as the checkpoint wants it. Streamed speech has one.
        retries: how often a sentence with problems is generated again.
        warming: what every further attempt adds to the temperature: loops and held sounds come
            from cold sampling.
        batch_size: sentences that are generated together.
        text: how text is cut; None: as the checkpoint wants it.
        checks: limits of what counts as a problem.
        pauses: seconds of silence behind a clause, a sentence and a paragraph; none behind the
            last one.
    """

    temperature: float | None = None
    top_p: float = 0.9
    top_k: int = 0
    repetition_window: int = 10
    max_repetition: float = 0.4
    max_hold: int = 13
    takes: int | None = None
    retries: int = 1
    warming: float = 0.3
    batch_size: int = 8
    text: SpeechTextOptions | None = None
    checks: CheckOptions = field(default_factory=CheckOptions)
    pauses: Mapping[Pause, float] = field(
        default_factory=lambda: {"clause": 0.05, "sentence": 0.2, "paragraph": 0.5}
    )

    def __post_init__(self) -> None:
        self.sampling(0.0)  # checks its values
        if self.retries < 0 or self.warming < 0:
            raise ValueError("retries and warming must not be negative")
        if self.takes is not None and self.takes < 1:
            raise ValueError(f"takes must be at least 1, got {self.takes}")
        if self.max_hold < 1:
            raise ValueError(f"max_hold must be at least 1, got {self.max_hold}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if any(seconds < 0 for seconds in self.pauses.values()):
            raise ValueError("pauses must not be negative")

    def sampling(self, temperature: float) -> SamplingParams:
        """Sampling of a completion, without its limit and seed.

        Args:
            temperature: of the checkpoint.
        """
        return SamplingParams(
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_window=self.repetition_window,
            max_repetition=self.max_repetition,
        )
