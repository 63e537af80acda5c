"""Short-time Fourier transform of batches with rows of different lengths, and its inverse.

Each row gives the numbers that `torch.stft` and `torch.istft` give for it alone, with
``center=True`` and a periodic Hann window.

Shape legend: B batch, S samples, F frames, K frequencies (n_fft // 2 + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.windows import masked, valid_mask

_SMALLEST_ENVELOPE = 1e-8


def num_stft_frames(num_samples: int, hop: int) -> int:
    """Frames of a transform with centred windows."""
    return num_samples // hop + 1


def centred_stft(wav_BS: Tensor, lens: Sequence[int], n_fft: int, hop: int) -> Tensor:
    """Transform; both ends of every row are reflected.

    Args:
        wav_BS: float32 samples.
        lens: samples of each row, more than ``n_fft // 2``.
        n_fft: samples of a window.
        hop: samples between frames.

    Returns:
        complex [B, K, F], zero behind the last frame of a row.
    """
    half = n_fft // 2
    if all(length == wav_BS.shape[-1] for length in lens):
        padded = F.pad(wav_BS, (half, half), mode="reflect")
    else:
        ends = torch.tensor(lens, device=wav_BS.device)[:, None] - 1
        index = torch.arange(-half, wav_BS.shape[-1] + half, device=wav_BS.device).abs()[None, :]
        index = torch.where(index > ends, 2 * ends - index, index).clamp(min=0)
        padded = wav_BS.gather(1, index)
    window = torch.hann_window(n_fft, device=wav_BS.device)
    spectrum = torch.stft(padded, n_fft, hop, window=window, center=False, return_complex=True)
    frames = [num_stft_frames(length, hop) for length in lens]
    return masked(spectrum, valid_mask(frames, spectrum.real))


def trimmed_istft(
    spectrum_BKF: Tensor, lens: Sequence[int], n_fft: int, hop: int, margin: int
) -> Tensor:
    """Inverse transform by weighted overlap-add.

    Args:
        spectrum_BKF: complex frames.
        lens: frames of each row; what lies behind is ignored.
        n_fft: samples of a window.
        hop: samples between frames.
        margin: samples cut off at both ends: ``n_fft // 2`` for windows centred on the samples of
            `centred_stft`, ``(n_fft - hop) // 2`` for one hop of sound for every frame.

    Returns:
        float32 [B, (F - 1) * hop + n_fft - 2 * margin]; zeros behind each row's end.
    """
    window = torch.hann_window(n_fft, device=spectrum_BKF.device)
    mask = valid_mask(lens, spectrum_BKF.real)
    frames = masked(torch.fft.irfft(spectrum_BKF, n_fft, dim=1) * window[:, None], mask)
    weights = window.square()[None, :, None].expand(1, n_fft, frames.shape[-1])
    envelope = _overlap_add(masked(weights, mask), hop)
    wav = _overlap_add(frames, hop) / envelope.clamp(min=_SMALLEST_ENVELOPE)
    wav = wav[:, None, margin : wav.shape[-1] - margin]
    samples = [max(0, (length - 1) * hop + n_fft - 2 * margin) for length in lens]
    return masked(wav, valid_mask(samples, wav))[:, 0]


def _overlap_add(frames_BNF: Tensor, hop: int) -> Tensor:
    n_fft, count = frames_BNF.shape[1:]
    size = (count - 1) * hop + n_fft
    return F.fold(frames_BNF, (1, size), (1, n_fft), stride=(1, hop)).flatten(1)
