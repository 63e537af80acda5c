"""Fundamental frequency of recordings, for training: the DIO tracker of the WORLD vocoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepaudio.errors import ConfigError

# Jumps that the tracker allows from frame to frame: strict, then loose. The strict track is
# right nearly everywhere, but ends too early where the voice rises, falls or creaks.
_STRICT, _LOOSE = 0.1, 0.2
_LARGEST_DEVIATION = 0.2  # of the loose track from the strict one, in natural logarithms


@dataclass(frozen=True, kw_only=True)
class PitchConfig:
    """Search range of the pitch.

    Attributes:
        lowest_hz: lower end.
        highest_hz: upper end.
    """

    lowest_hz: float = 60.0
    highest_hz: float = 500.0


def fill_gaps(f0: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace zeros by what lies between the neighbours on a logarithmic scale; 0 if all are."""
    voiced = np.flatnonzero(f0)
    if not len(voiced):
        return f0
    logs = np.interp(np.arange(len(f0)), voiced, np.log(f0[voiced].astype(np.float64)))
    return np.exp(logs).astype(np.float32)


def merge_tracks(strict: NDArray[np.float32], loose: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add those frames of a loose track that continue a strict one."""
    if not strict.any():
        return strict
    near = np.abs(np.log(np.maximum(loose, 1.0) / fill_gaps(strict))) < _LARGEST_DEVIATION
    return np.where(strict > 0, strict, np.where((loose > 0) & near, loose, 0)).astype(np.float32)


def track_pitch(
    wav: NDArray[np.float32], sample_rate: int, hop: int, config: PitchConfig
) -> NDArray[np.float32]:
    """Find the fundamental frequency at the end of every hop.

    Args:
        wav: float32 [frames * hop].
        sample_rate: in Hz.
        hop: samples between frames.
        config: search range.

    Returns:
        float32 [frames] in Hz, zero where nothing is voiced.

    Raises:
        ConfigError: pyworld is not installed.
    """
    try:
        import pyworld
    except ImportError as error:
        raise ConfigError(
            "tracking the pitch needs pyworld: pip install 'stepaudio[pitch]', and a C++ compiler"
        ) from error
    samples = wav.astype(np.float64)

    def track(allowed_range: float) -> NDArray[np.float32]:
        rough, times = pyworld.dio(
            samples,
            sample_rate,
            f0_floor=config.lowest_hz,
            f0_ceil=config.highest_hz,
            frame_period=1000 * hop / sample_rate / 2,
            allowed_range=allowed_range,
        )
        fine = pyworld.stonemask(samples, rough, times, sample_rate)
        return np.asarray(fine[2 : 2 * (len(wav) // hop) + 1 : 2], np.float32)

    f0 = merge_tracks(track(_STRICT), track(_LOOSE))
    outside = (f0 < config.lowest_hz) | (f0 > config.highest_hz)
    return np.where(outside, np.float32(0.0), f0)
