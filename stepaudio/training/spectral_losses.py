"""Losses of vocoders: spectra at several resolutions, pitch.

A sound with noise in it can be compared in two ways. Its plain distance to the recording is lowest
without the noise, because a constant is nearer to random numbers than other random numbers are: the
model then buzzes where the recording hisses. The energy distance (Gritsenko et al., arXiv
2008.01160) draws two sounds and takes off how far they are from one another; it is lowest where
both have the distribution of the recording. Where the pulses cannot follow the recording closely
enough, that is with more noise than one wants to hear: a part of it may be taken off instead.

Shape legend: B batch, S samples, K frequencies, F frames of a transform, T mel frames, C pitch
bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_HOPS_PER_WINDOW = 4


def power_spectrum(wav_BS: Tensor, n_fft: int) -> Tensor:
    """Compute the power [B, K, F] in Hann windows that overlap by three quarters.

    White noise has the same power at every size: its variance.
    """
    window = torch.hann_window(n_fft, device=wav_BS.device)
    spectrum = torch.stft(
        wav_BS, n_fft, n_fft // _HOPS_PER_WINDOW, window=window, center=True, return_complex=True
    )
    # Not the complex absolute value: its gradient is undefined at zero.
    power = spectrum.real.square() + spectrum.imag.square()
    return power / window.square().sum()


def expected_error(sounds: Sequence[Tensor], target: Tensor, *, repulsion: float = 1.0) -> Tensor:
    """Absolute error of one sound's features, or the energy distance of two sounds' ones.

    Args:
        sounds: features of one sound, or of two that differ in nothing but the noise.
        target: features of the recording.
        repulsion: share of the two sounds' distance that is taken off; 1: energy distance.

    Returns:
        One number for every feature.
    """
    if len(sounds) == 1:
        return (sounds[0] - target).abs()
    first, second = sounds
    apart = repulsion * (first - second).abs()
    return 0.5 * ((first - target).abs() + (second - target).abs() - apart)


def multi_resolution_loss(
    sounds: Sequence[Tensor],
    target_BS: Tensor,
    n_ffts: Sequence[int],
    *,
    highest_hz_B: Tensor,
    sample_rate: int,
    floor: float,
    repulsion: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compare magnitudes at several resolutions (after Yamamoto et al., arXiv 1910.11480).

    Args:
        sounds: one or two sounds [B, S] to judge, see `expected_error`.
        target_BS: the recording.
        n_ffts: sizes of the windows.
        highest_hz_B: nothing above is compared.
        sample_rate: in Hz.
        floor: magnitudes far below are silence.
        repulsion: of two sounds, see `expected_error`.

    Returns:
        Mean error of the magnitudes relative to the target's mean, and mean error of their
        natural logarithms; both averaged over the resolutions.
    """
    linear, logarithmic = [], []
    for n_fft in n_ffts:
        with torch.no_grad():
            target = power_spectrum(target_BS, n_fft) + floor**2
        powers = [power_spectrum(sound, n_fft) + floor**2 for sound in sounds]
        hz = torch.arange(target.shape[1], device=target.device) * (sample_rate / n_fft)
        inside = (hz <= highest_hz_B[:, None]).to(target.dtype)[..., None]
        magnitude = target.sqrt()
        roots, logs = [p.sqrt() for p in powers], [0.5 * p.log() for p in powers]
        error = expected_error(roots, magnitude, repulsion=repulsion) * inside
        linear.append(error.sum() / (magnitude * inside).sum())
        log_error = expected_error(logs, 0.5 * target.log(), repulsion=repulsion)
        logarithmic.append((log_error * inside).sum() / (inside.sum() * target.shape[-1]))
    return torch.stack(linear).mean(), torch.stack(logarithmic).mean()


def pitch_loss(logits_BTC: Tensor, log_bins_C: Tensor, f0_BT: Tensor, voiced_BT: Tensor) -> Tensor:
    """Cross-entropy of a distribution whose mean is the logarithm of F0, over voiced frames.

    The target lies on the two bins around F0, in proportion to their nearness.

    Args:
        logits_BTC: over the bins.
        log_bins_C: natural logarithms of the bins' frequencies, equally spaced.
        f0_BT: Hz; taken as the nearest bin outside the range.
        voiced_BT: one where F0 is known.
    """
    step = log_bins_C[1] - log_bins_C[0]
    position = (f0_BT.clamp(min=1e-3).log() - log_bins_C[0]) / step
    position = position.clamp(0, len(log_bins_C) - 1)
    lower = position.floor().clamp(max=len(log_bins_C) - 2)
    log_probs = logits_BTC.log_softmax(dim=-1)
    index = lower.long()[..., None]
    share = position - lower
    entropy = -(1 - share) * log_probs.gather(-1, index)[..., 0]
    entropy = entropy - share * log_probs.gather(-1, index + 1)[..., 0]
    return (entropy * voiced_BT).sum() / voiced_BT.sum().clamp(min=1.0)


def f0_error_cents(f0_BT: Tensor, target_BT: Tensor, voiced_BT: Tensor) -> Tensor:
    """Mean absolute deviation over voiced frames, in cents; differentiable."""
    ratio = f0_BT.clamp(min=1e-3).log2() - target_BT.clamp(min=1e-3).log2()
    return 1200.0 * (ratio.abs() * voiced_BT).sum() / voiced_BT.sum().clamp(min=1.0)


def voicing_loss(logits_BT: Tensor, voiced_BT: Tensor) -> Tensor:
    """Binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits_BT, voiced_BT)
