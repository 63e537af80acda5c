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
from stepaudio.catalog import find_voice, list_voices
from stepaudio.errors import AudioLoadError

RATE = 24_000  # Hz, of GA sessions
FRAME_MS = 20
FRAME = RATE * FRAME_MS // 1000

_MAX_S = 6.0
_MIN_S = 1.0  # no cut before so much speech
_PAUSE_FRAMES = 12  # a pause within a question would end its turn
_MARGIN = 2  # frames of silence that are kept at both ends
_FLOOR = 0.005  # whatever is below this is no speech
_PEAK_SHARE = 0.05  # so is what is below this share of the loudest frame


@dataclass(frozen=True)
class Recording:
    """One question as messages of 20 ms.

    Attributes:
        name: of its file.
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


def cut_recording(name: str, samples: NDArray[np.float32]) -> Recording:
    """Make a question of sound at 24 kHz: from the first speech to the first pause behind it.

    Raises:
        AudioLoadError: there is no speech in it.
    """
    num_frames = len(samples) // FRAME
    frames = samples[: num_frames * FRAME].reshape(num_frames, FRAME)
    loudness = np.sqrt(np.mean(frames**2, axis=1)) if num_frames else np.zeros(1)
    is_speech = loudness > max(_FLOOR, _PEAK_SHARE * float(loudness.max()))
    if not is_speech.any():
        raise AudioLoadError(f"{name}: no speech in it; give a recording of somebody who speaks")
    first = int(np.argmax(is_speech))
    last, limit = first, min(num_frames, first + round(1000 * _MAX_S) // FRAME_MS)
    for index in range(first, limit):
        if is_speech[index]:
            last = index
        elif index - last >= _PAUSE_FRAMES and (last - first) * FRAME_MS >= 1000 * _MIN_S:
            break
    start, stop = max(0, first - _MARGIN), min(num_frames, last + 1 + _MARGIN)
    return Recording(
        name,
        tuple(append_event(frame) for frame in frames[start:stop]),
        first - start,
        last - start,
        frames[start:stop].reshape(-1),
    )


def load_recording(path: Path) -> Recording:
    """Read an audio file.

    Raises:
        AudioLoadError: it cannot be read, or has no speech.
    """
    with open_decoder(path) as stream:
        # Ten times what is used: a long file need not be read to its end.
        wanted, blocks, num_read = int(10 * _MAX_S * stream.sample_rate), [], 0
        for block in stream.blocks:
            blocks.append(block)
            num_read += len(block)
            if num_read >= wanted:
                break
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        return cut_recording(path.name, soxr.resample(samples, stream.sample_rate, RATE))


def load_recordings(paths: Sequence[Path]) -> tuple[Recording, ...]:
    """Questions of files; without any, the recordings of people that this package carries.

    Raises:
        AudioLoadError: a file cannot be read, or has no speech.
    """
    chosen = list(paths) or [find_voice(name) for name in list_voices()]
    return tuple(load_recording(path) for path in chosen)
