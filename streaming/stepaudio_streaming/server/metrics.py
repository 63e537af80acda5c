"""Counters, gauges and histograms in the text format of Prometheus."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BARGE_IN_BUCKETS_S = (0.0, 0.01, 0.02, 0.032, 0.052, 0.1, 0.25, 0.5, 1.0)


class Counter:
    """A number that grows, for each value of a label.

    Args:
        name: of the metric.
        text: what it counts.
        label: name of the label; empty: none.
    """

    def __init__(self, name: str, text: str, label: str = "") -> None:
        self.name = name
        self._text = text
        self._label = label
        self._values: dict[str, float] = {} if label else {"": 0.0}

    def add(self, amount: float = 1.0, label: str = "") -> None:
        """Count; labels must come from a small set."""
        self._values[label] = self._values.get(label, 0.0) + amount

    def lines(self) -> list[str]:
        """Text form."""
        head = [f"# HELP {self.name} {self._text}", f"# TYPE {self.name} counter"]
        return head + [
            f"{self.name}{_labels(self._label, value)} {amount:.15g}"
            for value, amount in sorted(self._values.items())
        ]


class Gauge:
    """A number that is read when it is asked for.

    Args:
        name: of the metric.
        text: what it is.
        read: gives the number.
        kind: "counter" for a number that only grows.
    """

    def __init__(
        self, name: str, text: str, read: Callable[[], float], *, kind: str = "gauge"
    ) -> None:
        self.name = name
        self._text = text
        self._read = read
        self._kind = kind

    def lines(self) -> list[str]:
        """Text form."""
        return [
            f"# HELP {self.name} {self._text}",
            f"# TYPE {self.name} {self._kind}",
            f"{self.name} {self._read():.15g}",
        ]


class Histogram:
    """Numbers by size.

    Args:
        name: of the metric.
        text: what is measured.
        buckets: upper bounds, ascending.
    """

    def __init__(self, name: str, text: str, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self.name = name
        self._text = text
        self._bounds = tuple(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a number."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """Text form."""
        found = [f"# HELP {self.name} {self._text}", f"# TYPE {self.name} histogram"]
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            found.append(f'{self.name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{self.name}_sum {self._sum:.15g}", f"{self.name}_count {total}"]


def _labels(name: str, value: str) -> str:
    if not name:
        return ""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{{name}="{escaped}"}}'


def process_gauges() -> list[Gauge]:
    """What the process uses, under the names that Prometheus gives it; memory on Linux only."""
    gauges = [
        Gauge(
            "process_cpu_seconds_total",
            "Processor time of the server, all cores together.",
            time.process_time,
            kind="counter",
        )
    ]
    if _STATM.is_file():
        text = "Memory of the server that is not swapped out."
        gauges.append(Gauge("process_resident_memory_bytes", text, _resident_bytes))
    return gauges


_STATM = Path("/proc/self/statm")


def _resident_bytes() -> float:
    return float(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """All metrics of a server.

    Args:
        active_sessions: gives the number of open realtime sessions.
    """

    def __init__(self, active_sessions: Callable[[], float]) -> None:
        self.sessions = Counter(
            "stepaudio_sessions_total", "Realtime sessions that have ended.", "end"
        )
        self.refusals = Counter(
            "stepaudio_refused_sessions_total", "Realtime sessions refused.", "reason"
        )
        self.errors = Counter("stepaudio_error_events_total", "Error events sent.", "code")
        self.responses = Counter("stepaudio_responses_total", "Responses that ended.", "status")
        self.audio_out = Counter(
            "stepaudio_audio_out_bytes_total", "Encoded audio sent in realtime sessions."
        )
        self.first_audio = Histogram(
            "stepaudio_first_audio_seconds", "From response.created to the first audio."
        )
        self.barge_in = Histogram(
            "stepaudio_barge_in_stop_seconds",
            "From the arrival of the frame with which an interruption begins to the last audio of"
            " the old answer that was sent; 0: none was sent any more.",
            BARGE_IN_BUCKETS_S,
        )
        self.requests = Counter("stepaudio_http_requests_total", "HTTP responses.", "status")
        self._gauge = Gauge(
            "stepaudio_sessions_active", "Realtime sessions that are open.", active_sessions
        )
        self._process = process_gauges()

    def text(self) -> str:
        """All metrics in the text format."""
        parts: tuple[Counter | Gauge | Histogram, ...] = (
            self._gauge, self.sessions, self.refusals, self.errors, self.responses,
            self.audio_out, self.first_audio, self.barge_in, self.requests, *self._process,
        )  # fmt: skip
        return "\n".join(line for part in parts for line in part.lines()) + "\n"
