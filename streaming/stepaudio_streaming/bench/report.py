"""What all turns together say: numbers, a table, JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stepaudio_streaming.bench.speaker import Tally
from stepaudio_streaming.bench.turns import Turn
from stepaudio_streaming.bench.usage import Sample


@dataclass(frozen=True)
class Spread:
    """Percentiles of measured numbers."""

    n: int
    p50: float
    p95: float
    p99: float
    max: float


def spread(values: Sequence[float]) -> Spread | None:
    """Percentiles; None: nothing was measured."""
    if not values:
        return None
    p50, p95, p99 = (round(float(p), 2) for p in np.percentile(np.asarray(values), (50, 95, 99)))
    return Spread(len(values), p50, p95, p99, round(max(values), 2))


def _ms(values: Sequence[float | None]) -> Spread | None:
    return spread([1000 * value for value in values if value is not None])


@dataclass(frozen=True)
class Report:
    """Everything about a measurement.

    Attributes:
        about: server and options.
        duration_s: of the measurement.
        tally: what the speakers have seen.
        usage: what the server has used.
    """

    about: dict[str, Any]
    duration_s: float
    tally: Tally
    usage: Sequence[Sample]

    @property
    def answered(self) -> list[Turn]:
        """Turns whose answer was heard."""
        return [turn for turn in self.tally.turns if turn.first_audio_s is not None]

    def spreads(self) -> dict[str, Spread | None]:
        """Percentiles by what was measured; the unit is part of the name."""
        turns, heard = self.tally.turns, self.answered
        # The user has heard the sound of interrupted answers too, until he spoke.
        stops = [turn.stop_s for turn in turns if turn.was_being_made]
        return {
            "first audio after the end of speech, ms": _ms([t.first_audio_s for t in heard]),
            "first audio after the end of turn, ms": _ms([t.after_turn_s for t in heard]),
            "wait for the end of turn, ms": _ms([t.vad_wait_s for t in heard]),
            "underrun of an answer, ms": _ms([t.underrun_s for t in heard]),
            "barge-in: onset to the last old sound, ms": _ms(stops),
            "barge-in: onset to speech_started, ms": _ms([t.told_s for t in turns]),
            "opening a session, ms": _ms(self.tally.connects),
            "server: processor, cores": spread([s.cpu for s in self.usage if s.cpu is not None]),
            "server: memory, MB": spread(
                [s.memory_mb for s in self.usage if s.memory_mb is not None]
            ),
            "server: GPU, %": spread([100 * s.gpu for s in self.usage if s.gpu is not None]),
            "server: GPU memory, MB": spread(
                [s.gpu_memory_mb for s in self.usage if s.gpu_memory_mb is not None]
            ),
            "this program: frames sent late, ms": _ms(self.tally.lags),
        }

    def counts(self) -> dict[str, int]:
        """How often things happened."""
        turns = self.tally.turns
        status = Counter(
            f"answers {turn.status}" for turn in turns if turn.status and not turn.is_killed
        )
        return {
            "turns": len(turns),
            **dict(sorted(status.items())),
            "answers with an underrun": sum(turn.underruns > 0 for turn in self.answered),
            "interruptions": sum(turn.was_interrupted for turn in turns),
            "interruptions of an answer that was being made": sum(
                turn.was_being_made for turn in turns
            ),
            "answers that did not come": sum(turn.is_timeout for turn in turns),
            **dict(sorted(self.tally.counts.items())),
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        turns = []
        for turn in self.tally.turns:
            fields = asdict(turn)
            del fields["sound"], fields["ended_at"]
            turns.append({**fields, "after_turn_s": turn.after_turn_s})
        begin = self.usage[0].at if self.usage else 0.0
        return {
            "about": self.about,
            "duration_s": round(self.duration_s, 3),
            "measured": {
                name: None if found is None else asdict(found)
                for name, found in self.spreads().items()
            },
            "counts": self.counts(),
            "turns": turns,
            "usage": [{**asdict(sample), "at": sample.at - begin} for sample in self.usage],
        }

    def table(self) -> str:
        """Everything, for people."""
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        lines.append(f"duration: {self.duration_s:.1f} s")
        head = f"{'':44}{'n':>7}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}"
        lines += ["", head]
        for name, found in self.spreads().items():
            if found is not None:
                numbers = (found.p50, found.p95, found.p99, found.max)
                lines.append(f"{name:44}{found.n:>7}" + "".join(f"{v:>9.1f}" for v in numbers))
        lines.append("")
        lines += [f"{name}: {value}" for name, value in self.counts().items()]
        return "\n".join(lines)
