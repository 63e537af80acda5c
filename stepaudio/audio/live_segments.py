"""Windows of speech in a live stream, decided frame by frame.

Unlike `segmentation`, which may look back over a whole window for the best place to cut, every
decision is final at once: what lies inside of a window that is open never leaves it, so that each
sample needs to be encoded only once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.segmentation import VadOptions
from stepaudio.audio.vad import VAD_FRAME_SAMPLES

# A live listener waits less long for the end of a sentence.
LIVE_VAD_OPTIONS = VadOptions(pause_ms=500, long_pause_ms=1000, min_window_s=5.0)


@dataclass(frozen=True)
class LiveWindows:
    """What a stream of frame probabilities has been cut into so far; times in frames of 32 ms.

    Attributes:
        options: when frames are speech and how long pauses are.
        num_frames: frames heard.
        free_from: frames before this one belong to earlier windows.
        onset: first frame of a sound that may become speech.
        num_onset: frames of this sound that were speech.
        num_gap: frames since the last one that was.
        open_from: first frame of the window that is open; None: nobody speaks.
        speech_stop: one past the last frame of speech in it.
    """

    options: VadOptions = LIVE_VAD_OPTIONS
    num_frames: int = 0
    free_from: int = 0
    onset: int = 0
    num_onset: int = 0
    num_gap: int = 0
    open_from: int | None = None
    speech_stop: int = 0

    @property
    def ready(self) -> int:
        """The open window surely goes on to this frame (exclusive)."""
        return min(self.speech_stop + _frames(self.options.padding_ms), self.num_frames)

    @property
    def first_needed(self) -> int:
        """Frames before this one are in no later window."""
        if self.open_from is not None:
            return self.open_from
        start = self.onset if self.num_onset else self.num_frames
        return max(self.free_from, start - _frames(self.options.padding_ms))

    def push(self, probability: float) -> tuple[LiveWindows, tuple[int, int] | None]:
        """Hear the next frame; returns the new state, and the bounds of a window that ends now."""
        frame = self.num_frames
        heard = replace(self, num_frames=frame + 1)
        if self.open_from is None:
            return heard._maybe_open(frame, probability), None
        silence = frame - self.speech_stop
        continues = silence < _frames(self.options.min_silence_ms)
        if probability >= (self.options.offset if continues else self.options.onset):
            heard = replace(heard, speech_stop=frame + 1)
        return heard._maybe_close()

    def finish(self) -> tuple[LiveWindows, tuple[int, int] | None]:
        """The stream ends."""
        return self if self.open_from is None else self._close()[0], (
            None if self.open_from is None else self._close()[1]
        )

    def _maybe_open(self, frame: int, probability: float) -> LiveWindows:
        options = self.options
        started = self.num_onset > 0
        if probability >= (options.offset if started else options.onset):
            onset = self.onset if started else frame
            num_onset = self.num_onset + 1
            if num_onset < _frames(options.min_speech_ms):
                return replace(self, onset=onset, num_onset=num_onset, num_gap=0)
            open_from = max(self.free_from, onset - _frames(options.padding_ms))
            return replace(self, open_from=open_from, speech_stop=frame + 1, num_onset=0, num_gap=0)
        if started and self.num_gap + 1 < _frames(options.min_silence_ms):
            return replace(self, num_gap=self.num_gap + 1)
        return replace(self, num_onset=0, num_gap=0)

    def _maybe_close(self) -> tuple[LiveWindows, tuple[int, int] | None]:
        assert self.open_from is not None
        options = self.options
        silence = self.num_frames - self.speech_stop
        length = self.speech_stop - self.open_from
        pause = options.long_pause_ms
        if length >= _frames(options.min_window_s * 1000):
            pause = options.pause_ms
        if length >= options.max_speech_frames // 2:
            pause = options.min_silence_ms
        is_full = self.num_frames - self.open_from >= options.max_speech_frames
        return self._close() if is_full or silence >= _frames(pause) else (self, None)

    def _close(self) -> tuple[LiveWindows, tuple[int, int]]:
        assert self.open_from is not None
        window = self.open_from, self.ready
        return replace(self, open_from=None, free_from=self.ready, num_onset=0), window


def cut_live(
    probabilities: Iterable[float], options: VadOptions = LIVE_VAD_OPTIONS
) -> list[tuple[int, int]]:
    """Bounds in samples of all windows of a stream that has ended."""
    heard, windows = LiveWindows(options), []
    for probability in probabilities:
        heard, window = heard.push(probability)
        windows.append(window)
    windows.append(heard.finish()[1])
    return [(a * VAD_FRAME_SAMPLES, b * VAD_FRAME_SAMPLES) for a, b in filter(None, windows)]


def _frames(duration_ms: float) -> int:
    return math.ceil(duration_ms * SAMPLE_RATE / 1000 / VAD_FRAME_SAMPLES)
