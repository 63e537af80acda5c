"""Features of a voice prompt, and the cross-fade of the streamed vocoder (spec, section 10)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.mel import mel_filters

FBANK_BINS = 80
FBANK_WINDOW = SAMPLE_RATE * 25 // 1000  # samples; a shorter signal has no frame
_POWER_OFFSET = 1e-9
_SMALLEST_MAGNITUDE = 1e-5


@dataclass(frozen=True, kw_only=True)
class VoiceMel:
    """Log-mel that the mel decoder writes and the vocoder reads; the defaults are the public ones.

    Attributes:
        sample_rate: of the waveform in Hz.
        num_mels: mel bands.
        window: samples of one transform.
        hop: samples between frames: 50 frames a second.
        highest_hz: upper edge of the highest band.
    """

    sample_rate: int = 24_000
    num_mels: int = 80
    window: int = 1920
    hop: int = 480
    highest_hz: float = 8_000.0

    @property
    def margin(self) -> int:
        """Samples that are reflected at both ends, so that N hops of sound have N frames."""
        return (self.window - self.hop) // 2

    def __call__(self, wav: Tensor) -> Tensor:
        """Compute the log-mel of waveforms.

        Args:
            wav: float32 [..., samples], more than `margin` samples.

        Returns:
            float32 [..., num_mels, samples // hop], natural logarithm of magnitudes.

        Raises:
            ValueError: too short for the reflection at the ends.
        """
        if wav.shape[-1] <= self.margin:
            raise ValueError(f"wav must be longer than {self.margin} samples, got {wav.shape[-1]}")
        lead = wav.shape[:-1]
        padded = F.pad(wav.reshape(-1, wav.shape[-1]), (self.margin, self.margin), mode="reflect")
        spectrum = torch.stft(
            padded,
            self.window,
            self.hop,
            window=torch.hann_window(self.window, device=wav.device),
            center=False,
            return_complex=True,
        )
        # Not the complex absolute value: its gradient is undefined at zero.
        power = spectrum.real.square() + spectrum.imag.square()
        filters = mel_filters(
            self.num_mels,
            sample_rate=self.sample_rate,
            window=self.window,
            highest_hz=self.highest_hz,
        ).to(wav.device)
        mel = filters @ (power + _POWER_OFFSET).sqrt()
        return mel.clamp(min=_SMALLEST_MAGNITUDE).log().reshape(*lead, *mel.shape[1:])


def kaldi_fbank(wav: Tensor, num_bins: int = FBANK_BINS, *, subtract_mean: bool = True) -> Tensor:
    """Compute the Kaldi filter bank features of a speaker encoder, without dither.

    Args:
        wav: float32 mono waveform at 16 kHz, [samples].
        num_bins: mel bands.
        subtract_mean: remove the utterance's mean from every band.

    Returns:
        float32 [frames, num_bins], one frame every 10 ms; none if shorter than `FBANK_WINDOW`.
    """
    if wav.shape[-1] < FBANK_WINDOW:
        return wav.new_zeros(0, num_bins)
    from torchaudio.compliance import kaldi  # on demand: not everyone who imports us needs it

    features: Tensor = kaldi.fbank(
        wav[None], num_mel_bins=num_bins, dither=0.0, sample_frequency=float(SAMPLE_RATE)
    )
    if subtract_mean and len(features):
        features = features - features.mean(dim=0, keepdim=True)
    return features


def fade_window(num_samples: int, *, device: torch.device | None = None) -> Tensor:
    """Hamming window over a cross-fade, float32 [2 * num_samples]: its rising and falling half.

    The new sound is weighted with the first half, the old one with the second.
    """
    # float64 inside, like numpy.hamming.
    window = torch.hamming_window(2 * num_samples, periodic=False, dtype=torch.float64)
    return window.float().to(device)
