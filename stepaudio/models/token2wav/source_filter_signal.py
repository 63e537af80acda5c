"""Signal processing of the source-filter vocoder: pulses and noise through changing filters.

Nothing here is trained. A filter is given by its logarithmic magnitude at points of a mel scale,
and has the smallest phase that belongs to it (Oppenheim and Schafer, "Discrete-Time Signal
Processing", section 13.5), which is a linear function of the logarithmic magnitude.

Shape legend: B batch, E excitations (pulses, noise), T mel frames, J subframes, P points of a
filter, K frequencies (n_fft // 2 + 1), S samples.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stepaudio.audio.mel import hz_to_mel
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig

_OVERSAMPLING = 8  # of the frequencies on which the phase is computed
_LARGEST_LOG_MAGNITUDE = 6.0
_SMALLEST_SINE = 1e-9


@lru_cache(maxsize=8)
def filter_basis(config: SourceFilterConfig) -> NDArray[np.float32]:
    """Matrix from the points of a filter to logarithmic magnitude and phase.

    Returns:
        float32 [P, 2 * K]: magnitudes first, then phases in radians.
    """
    size = config.n_fft * _OVERSAMPLING
    mels = [hz_to_mel(hz) for hz in np.linspace(0, config.sampling_rate / 2, size // 2 + 1)]
    points = np.arange(config.filter_points)[:, None]
    magnitude = np.clip(1.0 - np.abs(np.array(mels) / config.mel_step - points), 0.0, None)
    cepstrum = np.fft.irfft(magnitude, axis=-1)
    fold = np.zeros(size)
    fold[0] = fold[size // 2] = 1.0
    fold[1 : size // 2] = 2.0
    spectrum = np.fft.rfft(cepstrum * fold, axis=-1)[:, ::_OVERSAMPLING]
    return np.concatenate([spectrum.real, spectrum.imag], axis=-1).astype(np.float32)


def interpolated(values_BT: Tensor, before_B1: Tensor, hop: int) -> Tensor:
    """Draw straight lines through values at the ends of hops.

    Args:
        values_BT: one at the end of every hop.
        before_B1: the one before the first hop.
        hop: samples between them.

    Returns:
        [B, T * hop] in the type of the values.
    """
    previous = torch.cat([before_B1, values_BT[:, :-1]], dim=-1)
    ramp = torch.arange(1, hop + 1, dtype=values_BT.dtype, device=values_BT.device) / hop
    lines = previous[..., None] + (values_BT - previous)[..., None] * ramp
    return lines.flatten(1)


def pulse_train(f0_BS: Tensor, before_B1: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Sum the cosines of all harmonics below half the sample rate, with a power of one.

    The highest harmonic fades as it comes near the limit, so that none begins or ends at once.

    Args:
        f0_BS: float64 fundamental frequency of every sample in Hz.
        before_B1: float64 phase before the first sample, in cycles.
        sample_rate: in Hz.

    Returns:
        float32 [B, S], and the float64 phase at every sample in cycles, [B, S].
    """
    cycles = before_B1 + (f0_BS / sample_rate).cumsum(dim=-1)
    phase = (cycles - cycles.round()) * (2.0 * math.pi)
    harmonics = sample_rate / 2 / f0_BS - 1.0
    whole = harmonics.floor()
    # Dirichlet's kernel; at a multiple of the period all cosines are one.
    half_sine = torch.sin(phase / 2)
    at_peak = half_sine.abs() < _SMALLEST_SINE
    kernel = torch.sin((whole + 0.5) * phase) / (2.0 * half_sine.masked_fill(at_peak, 1.0)) - 0.5
    kernel = torch.where(at_peak, whole, kernel)
    kernel = kernel + (harmonics - whole) * torch.cos((whole + 1.0) * phase)
    return (kernel * (2.0 / harmonics).sqrt()).float(), cycles


def modulated(noise_BS: Tensor, cycles_BS: Tensor, depth_BS: Tensor) -> Tensor:
    """Let noise swell at every pulse and keep its power; still noise hisses beside a voice.

    Args:
        noise_BS: float32 stationary noise.
        cycles_BS: phase of the pulses in cycles, from `pulse_train`.
        depth_BS: zero, for no change, to one.

    Returns:
        float32 [B, S].
    """
    swell = 1.0 + depth_BS * torch.cos(2.0 * math.pi * (cycles_BS - cycles_BS.round()))
    return noise_BS * (swell / (1.0 + 0.5 * depth_BS.square()).sqrt()).float()


def filtered(excitation_BES: Tensor, filters_BJEP: Tensor, config: SourceFilterConfig) -> Tensor:
    """Send excitations through filters that change from subframe to subframe, and add them.

    Args:
        excitation_BES: float32, ``(J + 1) * subframe_length`` samples.
        filters_BJEP: float32 logarithmic magnitudes.
        config: sizes.

    Returns:
        float32 [B, (J - 1) * subframe_length + n_fft]: the sound and what rings on behind it.
    """
    step = config.subframe_length
    # The windows of two neighbours add to one.
    window = torch.hann_window(2 * step, device=excitation_BES.device)
    frames_BEJN = excitation_BES.unfold(-1, 2 * step, step) * window
    source = torch.fft.rfft(frames_BEJN, config.n_fft).transpose(1, 2)
    basis = torch.from_numpy(filter_basis(config)).to(filters_BJEP.device)
    magnitude, phase = (filters_BJEP @ basis).chunk(2, dim=-1)
    response = torch.polar(magnitude.clamp(max=_LARGEST_LOG_MAGNITUDE).exp(), phase)
    frames_BJN = torch.fft.irfft((source * response).sum(dim=2), config.n_fft)
    size = (frames_BJN.shape[1] - 1) * step + config.n_fft
    columns = frames_BJN.transpose(1, 2)
    return F.fold(columns, (1, size), (1, config.n_fft), stride=(1, step)).flatten(1)
