"""What a generation cost: one record for the command line, metrics and benchmarks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import zip_longest


@dataclass
class GenerationStats:
    """Times and counts of one completion, or of several that were added up.

    The wall time of a batched pass is divided among its live rows, so that the records of a batch
    add up to the time that passed.

    Attributes:
        audio_s: seconds of audio heard.
        encode_s: seconds spent in mel, encoder and adaptor.
        prefill_s: seconds until the prompt was in the cache.
        decode_s: seconds spent in passes behind the prefill.
        prompt_tokens: tokens of the prompt, audio included.
        tokens: tokens generated, the end token included.
        passes: decoder passes, the prefill excluded.
        accepted: in how many passes at least one drafted token was kept, at least two, and so on;
            tokens behind the end are not kept.
    """

    audio_s: float = 0.0
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    passes: int = 0
    accepted: list[int] = field(default_factory=list)

    def add(self, other: GenerationStats) -> None:
        """Add another record to this one."""
        pairs = zip_longest(self.accepted, other.accepted, fillvalue=0)
        accepted = [mine + theirs for mine, theirs in pairs]
        for f in dataclasses.fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        self.accepted = accepted

    def record_pass(self, num_accepted: int) -> None:
        """Count a pass that kept so many drafted tokens."""
        self.passes += 1
        self.accepted += [0] * (num_accepted - len(self.accepted))
        for index in range(num_accepted):
            self.accepted[index] += 1

    @property
    def total_s(self) -> float:
        """Seconds of work."""
        return self.encode_s + self.prefill_s + self.decode_s

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work for one second of audio; 0 without audio."""
        return self.total_s / self.audio_s if self.audio_s else 0.0

    @property
    def ms_per_pass(self) -> float:
        """Milliseconds of one decoder pass."""
        return 1000 * self.decode_s / self.passes if self.passes else 0.0

    @property
    def prefix_acceptance(self) -> list[float]:
        """Share of the passes that kept at least one drafted token, at least two, and so on."""
        return [count / self.passes for count in self.accepted]

    @property
    def mean_accepted(self) -> float:
        """Tokens that a decoder pass confirms: its own, and the drafts that it keeps."""
        return 1 + sum(self.accepted) / self.passes if self.passes else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that a decoder pass yields; the prefill yields the first one."""
        return (self.tokens - 1) / self.passes if self.passes else 0.0
