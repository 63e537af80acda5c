"""A measurement: so many speakers against one server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from stepaudio.errors import StepAudioError
from stepaudio_streaming.bench.recordings import Recording
from stepaudio_streaming.bench.report import Report
from stepaudio_streaming.bench.speaker import Speaker, SpeakerOptions, Tally
from stepaudio_streaming.bench.target import Target
from stepaudio_streaming.bench.usage import Meter

_ENDLESS_S = 1e9
INTERRUPTED = "interrupted by the user"


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured.

    Attributes:
        sessions: speakers at once.
        duration_s: they stop after this; None: when their turns are over.
        seed: of everything that is left to chance.
        speaker: how each behaves.
    """

    sessions: int = 1
    duration_s: float | None = None
    seed: int = 0
    speaker: SpeakerOptions = SpeakerOptions()  # noqa: RUF009 - frozen


async def measure(
    target: Target,
    recordings: tuple[Recording, ...],
    options: BenchOptions,
    meter: Meter,
    *,
    make_speaker: Callable[..., Speaker] = Speaker,
) -> Report:
    """Let speakers talk to a server; whoever cancels this gets what was measured so far.

    Raises:
        StepAudioError: no session could be had at all.
    """
    tally, started = Tally(), time.monotonic()
    until = started + (options.duration_s or _ENDLESS_S)
    speakers = [
        make_speaker(
            number,
            target,
            recordings,
            options.speaker,
            tally,
            random=Random(f"{options.seed}-{number}"),
        )
        for number in range(options.sessions)
    ]
    metering = asyncio.create_task(meter.run())
    tasks = [asyncio.create_task(speaker.run(until)) for speaker in speakers]
    failure: StepAudioError | None = None
    try:
        with _ended_by_sigterm():
            for task in asyncio.as_completed(tasks):
                try:
                    await task
                except StepAudioError as error:
                    failure = error
                    tally.counts["speakers that gave up"] += 1
    except asyncio.CancelledError:
        tally.counts[INTERRUPTED] += 1
    finally:
        for task_ in (metering, *tasks):
            task_.cancel()
        await asyncio.gather(metering, *tasks, return_exceptions=True)
    if failure is not None and not tally.connects:
        raise failure
    return Report(
        _about(target, recordings, options), time.monotonic() - started, tally, meter.samples
    )


@contextlib.contextmanager
def _ended_by_sigterm() -> Any:
    """SIGTERM cancels the measurement as Ctrl-C does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (NotImplementedError, RuntimeError, ValueError):  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _about(
    target: Target, recordings: tuple[Recording, ...], options: BenchOptions
) -> dict[str, Any]:
    speaker = options.speaker
    return {
        "server": target.http,
        "model": target.model,
        "sessions": options.sessions,
        "barge-in": speaker.barge_in,
        "kill": speaker.kill,
        "seed": options.seed,
        "recordings": len(recordings),
    }
