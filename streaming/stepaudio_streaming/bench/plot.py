"""Pictures of a measurement."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from stepaudio.atomic import write_bytes_atomic
from stepaudio.errors import StepAudioError
from stepaudio_streaming.bench.report import Report


def require_matplotlib() -> None:
    """Make sure that plots can be drawn, before anything is measured.

    Raises:
        StepAudioError: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise StepAudioError("--plot needs matplotlib: pip install 'stepaudio[bench]'") from error


def write_plot(report: Report, path: Path) -> None:
    """Draw a report as PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes: Any = figure.subplots(2, 2)
    _latencies(axes[0][0], report)
    _over_time(axes[0][1], report)
    _interruptions(axes[1][0], report)
    _usage(axes[1][1], report)
    about = ", ".join(f"{name} {value}" for name, value in report.about.items() if value)
    figure.suptitle(about, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_bytes_atomic(path, picture.getvalue())


def _rising(axes: Any, seconds: list[float], label: str) -> None:
    """Share of the values that are not above each."""
    if seconds:
        values = 1000 * np.sort(np.asarray(seconds))
        axes.step(values, np.arange(1, len(values) + 1) / len(values), where="post", label=label)


def _finish(axes: Any, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "nothing measured", ha="center", transform=axes.transAxes)


def _latencies(axes: Any, report: Report) -> None:
    turns = report.answered
    _rising(axes, [t.first_audio_s for t in turns if t.first_audio_s is not None], "end of speech")
    _rising(axes, [t.after_turn_s for t in turns if t.after_turn_s is not None], "end of turn")
    _finish(axes, "First audio after", "ms", "share of answers")


def _over_time(axes: Any, report: Report) -> None:
    turns = [turn for turn in report.answered if turn.first_audio_s is not None]
    begin = min((turn.ended_at for turn in turns), default=0.0)
    for speaker in sorted({turn.speaker for turn in turns})[:10]:
        own = [turn for turn in turns if turn.speaker == speaker]
        times = [turn.ended_at - begin for turn in own]
        axes.plot(times, [1000 * (turn.first_audio_s or 0) for turn in own], "o", ms=3,
                  label=f"speaker {speaker}")  # fmt: skip
    _finish(axes, "First audio after the end of speech", "s", "ms")


def _interruptions(axes: Any, report: Report) -> None:
    turns = report.tally.turns
    stops = [turn.stop_s for turn in turns if turn.was_being_made and turn.stop_s is not None]
    _rising(axes, stops, "last old sound")
    _rising(axes, [turn.told_s for turn in turns if turn.told_s is not None], "speech_started")
    _finish(axes, "From the user's interruption to", "ms", "share of interruptions")


def _usage(axes: Any, report: Report) -> None:
    begin = report.usage[0].at if report.usage else 0.0
    for label, unit in (("cpu", "cores"), ("gpu", "share of the GPU")):
        found = [(s.at - begin, getattr(s, label)) for s in report.usage]
        known = [(at, value) for at, value in found if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), label=unit)
    memory = [(s.at - begin, s.memory_mb) for s in report.usage if s.memory_mb is not None]
    if memory:
        beside = axes.twinx()
        beside.plot(*zip(*memory, strict=True), color="gray", alpha=0.7)
        beside.set_ylabel("resident memory, MB (gray)")
    _finish(axes, "Server", "s", "cores")
