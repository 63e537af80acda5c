"""Losses of vocoders: spectra at several resolutions, pitch.

Shape legend: B batch, S samples, K frequencies, F frames of a transform, T mel frames, C pitch
bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_HOPS_PER_WINDOW = 4
_EDGE = 0.95  # of the highest frequency; above it the recording fades


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


def multi_resolution_loss(
    sound_BS: Tensor,
    target_BS: Tensor,
    n_ffts: Sequence[int],
    *,
    highest_hz_B: Tensor,
    sample_rate: int,
    floor: float,
) -> tuple[Tensor, Tensor]:
    """Compare magnitudes at several resolutions (after Yamamoto et al., arXiv 1910.11480).

    Args:
        sound_BS: sound to judge.
        target_BS: the recording.
        n_ffts: sizes of the windows.
        highest_hz_B: nothing above is in the recording, and nothing above is compared.
        sample_rate: in Hz.
        floor: magnitudes far below are silence.

    Returns:
        Mean absolute error relative to the target's mean magnitude, and mean absolute error of
        the natural logarithms; both averaged over the resolutions.
    """
    linear, logarithmic = [], []
    for n_fft in n_ffts:
        with torch.no_grad():
            target = power_spectrum(target_BS, n_fft) + floor**2
        sound = power_spectrum(sound_BS, n_fft) + floor**2
        hz = torch.arange(target.shape[1], device=target.device) * (sample_rate / n_fft)
        inside = (hz < _EDGE * highest_hz_B[:, None]).to(target.dtype)[..., None]
        difference = (sound.sqrt() - target.sqrt()).abs() * inside
        linear.append(difference.sum() / (target.sqrt() * inside).sum())
        log_difference = 0.5 * (sound.log() - target.log()).abs() * inside
        logarithmic.append(log_difference.sum() / (inside.sum() * target.shape[-1]))
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
