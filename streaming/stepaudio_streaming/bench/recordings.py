"""What simulated speakers say: real recordings, cut and encoded before the measurement begins."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from stepaudio.audio.decoding import open_decoder
from stepaudio.catalog import DEFAULT_VOICE, find_voice
from stepaudio.errors import AudioLoadError

RATE = 24_000  # Hz, of GA sessions
FRAME_MS = 20
FRAME = RATE * FRAME_MS // 1000

_MAX_FRAMES = 8000 // FRAME_MS
_MIN_FRAMES = 800 // FRAME_MS  # less is no question, unless there is nothing longer
_PAUSE_FRAMES = 240 // FRAME_MS  # a pause within a question could end its turn
_MAX_FILE_S = 60.0
_MARGIN = 2  # frames of silence that are kept at both ends
_FLOOR = 0.005  # whatever is below this is no speech
_PEAK_SHARE = 0.05  # so is what is below this share of the loudest frame


@dataclass(frozen=True)
class Recording:
    """One question as messages of 20 ms.

    Attributes:
        name: of its file, and which of its questions it is.
        messages: `input_audio_buffer.append` events, ready to be sent.
        onset: index of the first message with speech.
        end: index of the last one.
        samples: the same sound, float32 [samples] at 24 kHz.
    """

    name: str
    messages: tuple[str, ...]
    onset: int
    end: int
    samples: NDArray[np.float32] = field(repr=False, compare=False)

    @property
    def duration_s(self) -> float:
        """Of the speech."""
        return (self.end + 1 - self.onset) * FRAME_MS / 1000


def append_event(samples: NDArray[np.float32]) -> str:
    """Event that appends sound at 24 kHz."""
    pcm = np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes()
    audio = base64.b64encode(pcm).decode("ascii")
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio})


@lru_cache(maxsize=1)
def silence_event() -> str:
    """Event that appends 20 ms of silence."""
    return append_event(np.zeros(FRAME, np.float32))


def cut_recordings(name: str, samples: NDArray[np.float32]) -> list[Recording]:
    """Make questions of sound at 24 kHz: what is said between two pauses is one.

    Raises:
        AudioLoadError: there is no speech in it.
    """
    num_frames = len(samples) // FRAME
    frames = samples[: num_frames * FRAME].reshape(num_frames, FRAME)
    loudness = np.sqrt(np.mean(frames**2, axis=1)) if num_frames else np.zeros(1)
    is_speech = loudness > max(_FLOOR, _PEAK_SHARE * float(loudness.max()))
    stretches = _stretches(np.flatnonzero(is_speech))
    if not stretches:
        raise AudioLoadError(f"{name}: no speech in it; give a recording of somebody who speaks")
    longest = max(last - first for first, last in stretches)
    found = []
    for number, (first, last) in enumerate(stretches, 1):
        if last - first < min(longest, _MIN_FRAMES):
            continue
        start, stop = max(0, first - _MARGIN), min(num_frames, last + 1 + _MARGIN)
        events = tuple(append_event(frame) for frame in frames[start:stop])
        label = name if len(stretches) == 1 else f"{name} ({number})"
        piece = frames[start:stop].reshape(-1)
        found.append(Recording(label, events, first - start, last - start, piece))
    return found


def _stretches(frames: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and last frame of everything that is said without a pause."""
    found: list[tuple[int, int]] = []
    for frame in frames.tolist():
        goes_on = found and frame - found[-1][1] < _PAUSE_FRAMES
        if goes_on and frame - found[-1][0] < _MAX_FRAMES:
            found[-1] = found[-1][0], frame
        else:
            found.append((frame, frame))
    return found


def load_recording(path: Path) -> list[Recording]:
    """Read the questions of an audio file, of its first minute at most.

    Raises:
        AudioLoadError: it cannot be read, or has no speech.
    """
    with open_decoder(path) as stream:
        wanted, blocks, num_read = int(_MAX_FILE_S * stream.sample_rate), [], 0
        for block in stream.blocks:
            blocks.append(block)
            num_read += len(block)
            if num_read >= wanted:
                break
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        return cut_recordings(path.name, soxr.resample(samples, stream.sample_rate, RATE))


def load_recordings(paths: Sequence[Path]) -> tuple[Recording, ...]:
    """Questions of files; without any, of a recording that this package carries.

    Raises:
        AudioLoadError: a file cannot be read, or has no speech.
    """
    chosen = list(paths) or [find_voice(DEFAULT_VOICE)]
    return tuple(recording for path in chosen for recording in load_recording(path))
