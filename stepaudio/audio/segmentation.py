"""Where speech is in a recording, and how a long recording is cut into pieces for a model.

The decisions are pure functions of frame probabilities. They never look further back or ahead
than one window, so that recordings of any length are cut with bounded memory, and the same cuts
come out whatever the size of the blocks in which the samples arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from stepaudio.audio.frames import PIECE_SAMPLES, SAMPLE_RATE
from stepaudio.audio.io import rechunk
from stepaudio.audio.vad import VAD_FRAME_SAMPLES, VoiceActivityDetector

_State = TypeVar("_State")

# The detector hears every stretch of this many frames at the same peak level: it misses quiet
# speech (1.2 % of the digits of FSDD, 0.2 % when levelled).
_LEVEL_FRAMES = 512
_PEAK = 0.7
_MAX_GAIN = 1000.0
_PEAK_DECAY = 0.25  # share of the last stretch's peak that still counts in the next one
# In recordings this short the detector gets frames of silence ahead: it wakes up slowly
# (misses of FSDD: from 0.2 to 0.04 %). In longer ones noise that begins at once would fool it.
_SHORT_SAMPLES = 2 * SAMPLE_RATE
_LEAD_FRAMES = 3


def _frames(duration_ms: float) -> int:
    return math.ceil(duration_ms * SAMPLE_RATE / 1000 / VAD_FRAME_SAMPLES)


@dataclass(frozen=True)
class VadOptions:
    """When frames are speech, and where a long recording is cut.

    Attributes:
        onset: speech begins at this probability.
        offset: speech may end below this probability.
        min_speech_ms: shorter runs of speech are noise.
        min_silence_ms: shorter gaps belong to the speech around them.
        padding_ms: kept around the speech of a window.
        pause_ms: a pause this long ends a window of at least `min_window_s`.
        long_pause_ms: a pause this long ends any window.
        min_window_s: windows shorter than this are not ended at an ordinary pause.
        max_window_samples: no window is longer, padding included.
    """

    onset: float = 0.5
    offset: float = 0.35
    min_speech_ms: int = 96
    min_silence_ms: int = 96
    padding_ms: int = 200
    pause_ms: int = 500
    long_pause_ms: int = 2000
    min_window_s: float = 8.0
    max_window_samples: int = PIECE_SAMPLES

    def __post_init__(self) -> None:
        if not 0.0 < self.offset <= self.onset < 1.0:
            raise ValueError(f"need 0 < offset <= onset < 1, got {self.offset} and {self.onset}")
        if (
            not 2 * _frames(self.padding_ms)
            <= _frames(self.pause_ms)
            <= _frames(self.long_pause_ms)
        ):
            raise ValueError("need 2 * padding_ms <= pause_ms <= long_pause_ms, in frames of 32 ms")
        if self.max_speech_frames < 4 * _frames(self.min_speech_ms):
            raise ValueError(f"max_window_samples is too small: {self.max_window_samples}")

    @property
    def max_speech_frames(self) -> int:
        """Frames of a window without its padding."""
        return self.max_window_samples // VAD_FRAME_SAMPLES - 2 * _frames(self.padding_ms)


DEFAULT_VAD_OPTIONS = VadOptions()


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in samples: `start` is its first one, `stop` one past its last."""

    start: int
    stop: int

    @property
    def start_s(self) -> float:
        """Start in seconds."""
        return self.start / SAMPLE_RATE

    @property
    def stop_s(self) -> float:
        """End in seconds."""
        return self.stop / SAMPLE_RATE


@dataclass(frozen=True)
class SpeechWindow:
    """A piece of a recording that holds speech.

    Attributes:
        start: its first sample in the recording.
        samples: float32 [samples] at 16 kHz.
    """

    start: int
    samples: Tensor

    @property
    def segment(self) -> Segment:
        """Where the window lies in the recording."""
        return Segment(self.start, self.start + len(self.samples))


class SpeechRuns:
    """Hysteresis over frame probabilities that arrive one after another.

    Attributes:
        runs: finished runs of speech as (first frame, one past the last frame).
        candidate: the run that may go on, None in silence; shorter ones than `min_speech_ms` may
            still turn out to be noise.
        num_frames: frames heard.
    """

    def __init__(self, options: VadOptions) -> None:
        self.runs: list[tuple[int, int]] = []
        self.candidate: tuple[int, int] | None = None
        self.num_frames = 0
        self._options = options
        self._min_speech = _frames(options.min_speech_ms)
        self._min_silence = _frames(options.min_silence_ms)

    def push(self, probability: float) -> None:
        """Take the next frame."""
        frame = self.num_frames
        self.num_frames += 1
        if self.candidate is None:
            if probability >= self._options.onset:
                self.candidate = frame, frame + 1
            return
        start, stop = self.candidate
        if probability >= self._options.offset:
            self.candidate = start, frame + 1
        elif frame + 1 - stop >= self._min_silence:
            self.finish()

    def finish(self) -> None:
        """End the run that may go on."""
        if self.is_speech():
            assert self.candidate is not None
            self.runs.append(self.candidate)
        self.candidate = None

    def is_speech(self) -> bool:
        """Whether the candidate is long enough to be speech already."""
        return self.candidate is not None and (
            self.candidate[1] - self.candidate[0] >= self._min_speech
        )


class _WindowPlanner:
    """Decides window after window from frame probabilities, as early as it can.

    Every decision is one that more frames could not change, so it does not matter how many
    frames are known when `next_window` is asked.
    """

    def __init__(self, options: VadOptions) -> None:
        self._options = options
        self._heard = SpeechRuns(options)
        self._padding = _frames(options.padding_ms)
        self._probabilities: list[float] = []
        self._first = 0  # frame that the first probability belongs to
        self._taken = 0  # frames before this one are in earlier windows

    def push(self, probabilities: Sequence[float]) -> None:
        self._probabilities.extend(probabilities)
        for probability in probabilities:
            self._heard.push(probability)

    def first_needed(self) -> int:
        """Frames before this one are in no later window."""
        heard = self._heard
        start = heard.candidate[0] if heard.candidate else heard.num_frames
        if heard.runs:
            start = heard.runs[0][0]
        needed = max(self._taken, start - self._padding)
        del self._probabilities[: needed - self._first]
        self._first = needed
        return needed

    def next_window(self, *, ended: bool) -> tuple[int, int] | None:
        """Bounds of the next window in frames, None if more frames are needed or none is left."""
        heard = self._heard
        if ended:
            heard.finish()
        runs = list(heard.runs)
        if heard.candidate and heard.is_speech():
            runs.append(heard.candidate)
        for i, (_, stop) in enumerate(runs):
            if stop - runs[0][0] > self._options.max_speech_frames:
                return self._cut_in_pause(runs[: i + 1]) if i else self._cut_in_speech(runs[0])
            if i >= len(heard.runs):
                return None  # this run is going on
            pause = self._pause_behind(i, ended)
            if self._ends_window(stop - runs[0][0], pause):
                return self._take(i + 1, pause)
        return None

    def _pause_behind(self, index: int, ended: bool) -> float:
        """Frames of silence behind a finished run, as far as they are heard."""
        heard = self._heard
        stop = heard.runs[index][1]
        if index + 1 < len(heard.runs):
            return heard.runs[index + 1][0] - stop
        if ended:
            return math.inf
        return (heard.candidate[0] if heard.candidate else heard.num_frames) - stop

    def _ends_window(self, length: int, pause: float) -> bool:
        options = self._options
        if pause >= _frames(options.long_pause_ms):
            return True
        is_long = length >= _frames(options.min_window_s * 1000)
        return is_long and pause >= _frames(options.pause_ms)

    def _cut_in_pause(self, runs: list[tuple[int, int]]) -> tuple[int, int]:
        """End the window in a pause before the last of these runs, which does not fit in."""
        start = runs[0][0]
        pauses = [runs[i + 1][0] - runs[i][1] for i in range(len(runs) - 1)]
        shortest = _frames(self._options.min_window_s * 1000)
        late = [i for i in range(len(pauses)) if runs[i][1] - start >= shortest]
        best = max(late, key=lambda i: (pauses[i], i)) if late else len(pauses) - 1
        return self._take(best + 1, pauses[best])

    def _cut_in_speech(self, run: tuple[int, int]) -> tuple[int, int]:
        """End the window at the least likely frame of a run without any pause."""
        longest = self._options.max_speech_frames
        # What is left must still be long enough to be speech.
        last = run[0] + longest - _frames(self._options.min_speech_ms)
        cut = min(
            range(run[0] + longest // 2, last),
            key=lambda frame: self._probabilities[frame - self._first],
        )
        heard = self._heard
        if heard.runs:
            heard.runs[0] = cut, run[1]
        else:
            heard.candidate = cut, run[1]
        window = max(self._taken, run[0] - self._padding), cut
        self._taken = cut
        return window

    def _take(self, num_runs: int, pause: float) -> tuple[int, int]:
        """Remove the first runs and return the window around them."""
        runs = self._heard.runs
        start = max(self._taken, runs[0][0] - self._padding)
        # A pause shorter than two paddings is shared by the windows on its two sides.
        stop = runs[num_runs - 1][1] + int(min(self._padding, pause // 2))
        del runs[:num_runs]
        self._taken = stop
        return start, stop


def _level(blocks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Regroup blocks and bring them to one level.

    Yields:
        Samples as they are, the same samples at the level for the detector, and whether they are
        the last ones. An empty recording gives one empty block.
    """
    peak = 0.0
    waiting: Tensor | None = None
    stretches = rechunk(blocks, _LEVEL_FRAMES * VAD_FRAME_SAMPLES)
    while True:
        following = next(stretches, None)
        if waiting is not None or following is None:
            samples = torch.zeros(0) if waiting is None else waiting
            loudest = float(samples.abs().max()) if len(samples) else 0.0
            peak = max(loudest, peak * _PEAK_DECAY)
            gain = _PEAK / max(peak, _PEAK / _MAX_GAIN)
            yield samples, samples * gain, following is None
        if following is None:
            return
        waiting = following


def _detect(
    blocks: Iterable[Tensor], detector: VoiceActivityDetector[_State]
) -> Iterator[tuple[Tensor, list[float], bool]]:
    """Yield samples, the probabilities of the frames they complete, and whether they are last."""
    state = detector.init_state()
    heard = False
    for samples, levelled, last in _level(blocks):
        lead = 0
        if last and not heard and 0 < len(samples) <= _SHORT_SAMPLES:
            lead = _LEAD_FRAMES
            levelled = torch.cat([levelled.new_zeros(lead * VAD_FRAME_SAMPLES), levelled])
        heard = True
        probabilities, state = detector.speech_probabilities(levelled, state, last=last)
        yield samples, probabilities[lead:].tolist(), last


def speech_segments(
    samples: Tensor,
    detector: VoiceActivityDetector[_State],
    options: VadOptions = DEFAULT_VAD_OPTIONS,
) -> list[Segment]:
    """Find the speech in a recording, without padding.

    Args:
        samples: float32 [samples] at 16 kHz.
        detector: gives the speech probabilities.
        options: thresholds and shortest durations.
    """
    runs = SpeechRuns(options)
    for _, probabilities, _ in _detect([samples], detector):
        for probability in probabilities:
            runs.push(probability)
    runs.finish()
    return [
        Segment(start * VAD_FRAME_SAMPLES, min(stop * VAD_FRAME_SAMPLES, len(samples)))
        for start, stop in runs.runs
    ]


def cut_at_silence(
    num_samples: int,
    probabilities: Sequence[float],
    options: VadOptions = DEFAULT_VAD_OPTIONS,
) -> list[Segment]:
    """Cut a recording into windows that hold all its speech and are short enough for a model.

    Windows end at the long pauses; once they are `min_window_s` long, at any clear pause; and
    where neither comes in time, at the longest gap there is. Only a speaker who never pauses is
    cut at the frame with the lowest probability. Stretches without speech are in no window.

    Args:
        num_samples: length of the recording.
        probabilities: of speech in every frame of 32 ms.
        options: thresholds and lengths.

    Returns:
        Windows in order, none of them overlapping or longer than `max_window_samples`.
    """
    planner = _WindowPlanner(options)
    planner.push(probabilities)
    windows = []
    while (window := planner.next_window(ended=True)) is not None:
        start, stop = (frame * VAD_FRAME_SAMPLES for frame in window)
        windows.append(Segment(start, min(stop, num_samples)))
    return windows


def iter_speech_windows(
    blocks: Iterable[Tensor],
    detector: VoiceActivityDetector[_State],
    options: VadOptions = DEFAULT_VAD_OPTIONS,
) -> Iterator[SpeechWindow]:
    """Cut a recording of any length into windows of speech while it is being read.

    The windows are those of `cut_at_silence`; see there. Memory is bounded by the longest window
    and some seconds more. A recording without speech gives no window.

    Args:
        blocks: float32 [samples] each, at 16 kHz, of any lengths.
        detector: gives the speech probabilities.
        options: thresholds and lengths.
    """
    planner = _WindowPlanner(options)
    held, first = torch.zeros(0), 0  # samples that a window may still need, and where they begin
    for samples, probabilities, last in _detect(blocks, detector):
        held = torch.cat([held, samples])
        planner.push(probabilities)
        while (window := planner.next_window(ended=last)) is not None:
            start, stop = (frame * VAD_FRAME_SAMPLES for frame in window)
            yield SpeechWindow(start, held[start - first : stop - first].clone())
        needed = min(planner.first_needed() * VAD_FRAME_SAMPLES, first + len(held))
        held, first = held[needed - first :], needed
