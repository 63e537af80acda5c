"""Waveform to log-mel spectrogram, whole pieces and streams (specification, section 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudio.audio.frames import (
    HOP_LENGTH,
    SAMPLE_RATE,
    TAIL_PADDING,
    WINDOW_LENGTH,
    num_mel_frames,
)

MelFloor = Literal["piece", "fixed"]

DYNAMIC_RANGE = 8.0  # decades of power kept below the maximum
# Log10 power that "fixed" takes as the maximum of every piece: a stream cannot know its own.
# Speech recorded at a usual level peaks between 0 and 2.
FIXED_MAXIMUM = 1.0
_SMALLEST_POWER = 1e-10
_HALF_WINDOW = WINDOW_LENGTH // 2


# Slaney's scale: linear up to 1 kHz, then 27 steps for each factor of 6.4.
_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def hz_to_mel(hz: float) -> float:
    """Slaney's mel of a frequency."""
    return hz / _HZ_PER_MEL if hz < _BREAK_HZ else _BREAK_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequencies of mels, the inverse of `hz_to_mel`."""
    log_part = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, log_part)


@lru_cache(maxsize=8)
def mel_filters(
    num_mels: int,
    *,
    sample_rate: int = SAMPLE_RATE,
    window: int = WINDOW_LENGTH,
    highest_hz: float = SAMPLE_RATE / 2,
) -> Tensor:
    """Slaney mel filter bank from 0 to `highest_hz`, float32 [num_mels, window // 2 + 1]."""
    # float64 throughout, like librosa.filters.mel, whose import alone takes over a second;
    # torchaudio's bank is computed in float32 and is off by 1e-7 in values of 1e-2.
    edges = mel_to_hz(np.linspace(0.0, hz_to_mel(highest_hz), num_mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, window // 2 + 1)
    widths = np.diff(edges)
    ramps = edges[:, None] - bins[None, :]
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    bank = np.maximum(0.0, np.minimum(rising, falling))
    area = 2.0 / (edges[2:] - edges[:-2])
    return torch.from_numpy((bank.astype(np.float32) * area[:, None]).astype(np.float32))


def _log_power(spectrum: Tensor, num_mels: int) -> Tensor:
    power = spectrum.abs().square()
    mel = mel_filters(num_mels).to(power.device) @ power
    return mel.clamp(min=_SMALLEST_POWER).log10()


def _compress(log_power: Tensor, floor: MelFloor) -> Tensor:
    if floor == "piece":
        lowest = log_power.amax() - DYNAMIC_RANGE
        return (torch.maximum(log_power, lowest) + 4.0) / 4.0
    return (log_power.clamp(min=FIXED_MAXIMUM - DYNAMIC_RANGE) + 4.0) / 4.0


def log_mel(
    wav: Tensor,
    num_mels: int = 128,
    *,
    floor: MelFloor = "piece",
    padding: int = TAIL_PADDING,
) -> Tensor:
    """Compute the log-mel spectrogram of one piece.

    Args:
        wav: float32 mono waveform at 16 kHz, [samples].
        num_mels: number of mel bands.
        floor: clip eight decades below the piece's own maximum (the public models), or below a
            constant, so that a stream gives the same frames as the whole piece.
        padding: zeros appended before the transform; the S3 tokenizer uses 0.

    Returns:
        float32 [num_mels, (samples + padding) // 160].
    """
    wav = torch.nn.functional.pad(wav, (0, padding))
    if wav.shape[-1] <= _HALF_WINDOW:  # too short for reflection
        return wav.new_zeros(num_mels, wav.shape[-1] // HOP_LENGTH)
    window = torch.hann_window(WINDOW_LENGTH, device=wav.device)
    spectrum = torch.stft(
        wav, WINDOW_LENGTH, HOP_LENGTH, window=window, center=True, return_complex=True
    )
    return _compress(_log_power(spectrum[..., :-1], num_mels), floor)


@dataclass(frozen=True)
class MelStreamState:
    """What one stream remembers between chunks.

    Attributes:
        tail: float32 samples that later frames still need.
        num_samples: samples heard so far.
        num_frames: mel frames given out so far.
    """

    tail: Tensor
    num_samples: int = 0
    num_frames: int = 0


def init_mel_stream() -> MelStreamState:
    """State of a stream that has heard nothing."""
    return MelStreamState(tail=torch.zeros(0))


def stream_log_mel(
    wav: Tensor, state: MelStreamState, num_mels: int, *, last: bool = False
) -> tuple[Tensor, MelStreamState]:
    """Turn the next samples of a stream into every mel frame that is now complete.

    The frames of all calls together equal ``log_mel(whole, num_mels, floor="fixed")``.

    Args:
        wav: float32 [samples], any number of samples, none included.
        state: state returned by the previous call.
        num_mels: number of mel bands.
        last: the stream ends here; the tail padding is added.

    Returns:
        float32 [num_mels, new frames] and the new state.
    """
    total = state.num_samples + wav.shape[-1]
    samples = torch.cat([state.tail, wav])
    if last:
        # A frame may reach 200 samples past its centre; behind the tail padding lie zeros.
        samples = torch.nn.functional.pad(samples, (0, TAIL_PADDING + _HALF_WINDOW))
        complete = num_mel_frames(total)
    else:
        complete = max((total - _HALF_WINDOW) // HOP_LENGTH + 1, 0) if total > _HALF_WINDOW else 0
    new = complete - state.num_frames
    if new <= 0:
        return wav.new_zeros(num_mels, 0), MelStreamState(samples, total, state.num_frames)
    if state.num_frames == 0:  # the left edge reflects, as in the whole piece
        samples = torch.cat([samples[1 : _HALF_WINDOW + 1].flip(0), samples])
    window = torch.hann_window(WINDOW_LENGTH, device=wav.device)
    used = samples[: (new - 1) * HOP_LENGTH + WINDOW_LENGTH]
    spectrum = torch.stft(
        used, WINDOW_LENGTH, HOP_LENGTH, window=window, center=False, return_complex=True
    )
    mel = _compress(_log_power(spectrum, num_mels), "fixed")
    return mel, MelStreamState(samples[new * HOP_LENGTH :], total, complete)
