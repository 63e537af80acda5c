"""Waveform and spectrogram augmentation for training, driven by an explicit random generator.

Every function is pure: the same generator state gives the same result, so a training run can be
resumed at any step. Waveforms are float32 at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter, resample_poly
from torch import Tensor

Samples = NDArray[np.float32]

_SPEED_DENOMINATOR = 20  # speeds are multiples of 5 %, which keeps polyphase filters short
_MU = 255.0  # G.711 mu-law
_TARGET_PEAK = 0.99


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities and ranges of every augmentation.

    Attributes:
        speed: playback speeds to draw from, multiples of 0.05.
        gain_db: range of gains.
        noise_probability: chance that noise is added.
        snr_db: range of signal-to-noise ratios.
        reverb_probability: chance of a room impulse response.
        band_probability: chance of telephone band and mu-law coding.
        white_noise_probability: share of added noise that is coloured noise, not a recording.
        time_masks: SpecAugment time masks for every 5 s.
        time_mask_frames: longest time mask in mel frames.
        frequency_masks: SpecAugment frequency masks.
        frequency_mask_bands: widest frequency mask in mel bands.
    """

    speed: tuple[float, ...] = (0.85, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.15)
    gain_db: tuple[float, float] = (-14.0, 8.0)
    noise_probability: float = 0.4
    snr_db: tuple[float, float] = (5.0, 30.0)
    reverb_probability: float = 0.15
    band_probability: float = 0.12
    white_noise_probability: float = 0.4
    time_masks: int = 2
    time_mask_frames: int = 30
    frequency_masks: int = 2
    frequency_mask_bands: int = 12


def change_speed(wav: Samples, speed: float) -> Samples:
    """Play faster (speed > 1) or slower; pitch moves along."""
    up, down = _SPEED_DENOMINATOR, round(speed * _SPEED_DENOMINATOR)
    if up == down:
        return wav
    return resample_poly(wav, up, down).astype(np.float32)


def add_noise(wav: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise of the same length at a signal-to-noise ratio."""
    signal_power = float(np.mean(wav**2)) + 1e-12
    noise_power = float(np.mean(noise**2)) + 1e-12
    scale = np.sqrt(signal_power / noise_power / 10 ** (snr_db / 10))
    return (wav + np.float32(scale) * noise).astype(np.float32)


def coloured_noise(num_samples: int, rng: np.random.Generator) -> Samples:
    """White noise through a random one-pole low pass."""
    white = rng.standard_normal(num_samples).astype(np.float32)
    pole = rng.uniform(0.0, 0.97)
    return np.asarray(lfilter([1.0 - pole], [1.0, -pole], white), dtype=np.float32)


def reverberate(wav: Samples, impulse: Samples) -> Samples:
    """Convolve with a room impulse response, keeping length, energy and alignment."""
    start = int(np.argmax(np.abs(impulse)))
    wet = fftconvolve(wav, impulse[start:])[: len(wav)]
    power = np.sqrt((np.mean(wav**2) + 1e-12) / (np.mean(wet**2) + 1e-12))
    return (wet * power).astype(np.float32)


def telephone(wav: Samples) -> Samples:
    """Limit to 4 kHz and code with 8-bit mu-law, as a G.711 line does."""
    narrow = resample_poly(wav, 1, 2)
    peak = max(float(np.max(np.abs(narrow))), 1.0)
    x = narrow / peak
    coded = np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)
    coded = np.round(coded * 127.0) / 127.0
    decoded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU
    return (resample_poly(decoded * peak, 2, 1)[: len(wav)]).astype(np.float32)


def _random_excerpt(noise: Samples, num_samples: int, rng: np.random.Generator) -> Samples:
    if len(noise) < num_samples:
        noise = np.tile(noise, num_samples // len(noise) + 1)
    start = int(rng.integers(0, len(noise) - num_samples + 1))
    return noise[start : start + num_samples]


def augment_waveform(
    wav: Samples,
    config: AugmentConfig,
    rng: np.random.Generator,
    noises: Sequence[Samples] = (),
    impulses: Sequence[Samples] = (),
) -> Samples:
    """Apply speed, reverberation, noise, telephone band and gain, each at random."""
    wav = change_speed(wav, float(rng.choice(config.speed)))
    if impulses and rng.random() < config.reverb_probability:
        wav = reverberate(wav, impulses[int(rng.integers(len(impulses)))])
    if rng.random() < config.noise_probability:
        coloured = not noises or rng.random() < config.white_noise_probability
        if coloured:
            noise = coloured_noise(len(wav), rng)
        else:
            noise = _random_excerpt(noises[int(rng.integers(len(noises)))], len(wav), rng)
        wav = add_noise(wav, noise, float(rng.uniform(*config.snr_db)))
    if rng.random() < config.band_probability:
        wav = telephone(wav)
    gain = 10 ** (float(rng.uniform(*config.gain_db)) / 20)
    peak = float(np.max(np.abs(wav))) if len(wav) else 0.0
    return (wav * min(gain, _TARGET_PEAK / max(peak, 1e-6))).astype(np.float32)


def spec_augment(mel: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Mask random bands and spans of [M, T] with the mean (SpecAugment, arXiv 1904.08779)."""
    mel = mel.clone()
    bands, frames = mel.shape
    fill = torch.clamp(mel.mean(), -1.0, 1.0)
    for _ in range(config.frequency_masks):
        width = int(rng.integers(0, config.frequency_mask_bands + 1))
        start = int(rng.integers(0, bands - width + 1))
        mel[start : start + width] = fill
    for _ in range(max(1, round(config.time_masks * frames / 500)) if config.time_masks else 0):
        width = int(rng.integers(0, min(config.time_mask_frames, frames // 8) + 1))
        start = int(rng.integers(0, frames - width + 1))
        mel[:, start : start + width] = fill
    return mel
