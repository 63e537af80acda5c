"""Architecture of the source-filter vocoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepaudio.audio.mel import hz_to_mel
from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection


@dataclass(frozen=True, kw_only=True)
class SourceFilterConfig(ConfigSection):
    """Architecture of the source-filter vocoder.

    Attributes:
        in_channels: mel bands.
        sampling_rate: of the waveform in Hz.
        hop_length: samples for every mel frame.
        highest_mel_hz: upper edge of the highest mel band.
        silence: log-mel of silence, which surrounds every sound.
        subframes: filters for every mel frame.
        n_fft: samples of the transform that filters: two subframes, and room for the response of
            the filters, which is cut there.
        hidden_size: width of the blocks.
        intermediate_size: hidden width of their feed-forward layers.
        num_layers: blocks.
        kernel_size: frames that every convolution spans.
        lookahead: mel frames that the first convolution looks to the right.
        pitch_bins: logarithmically spaced frequencies between which F0 is interpolated.
        lowest_f0: the first of them in Hz.
        highest_f0: the last of them in Hz.
        noise_modulation: how much louder the noise of a voice is at its pulses than on average.
        audio_limit: largest magnitude of a sample.
    """

    in_channels: int = 80
    sampling_rate: int = 24_000
    hop_length: int = 480
    highest_mel_hz: float = 8_000.0
    silence: float = -11.513
    subframes: int = 2
    n_fft: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 4
    kernel_size: int = 7
    lookahead: int = 3
    pitch_bins: int = 96
    lowest_f0: float = 60.0
    highest_f0: float = 500.0
    noise_modulation: float = 0.25
    audio_limit: float = 0.99

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.hop_length, self.hidden_size, self.intermediate_size)
        if min(*sizes, self.num_layers, self.kernel_size, self.subframes) < 1:
            raise ConfigError("sizes of the vocoder must be positive")
        # With a lookahead of one, a session that ends always has a frame left to tell.
        if not 1 <= self.lookahead < self.kernel_size:
            raise ConfigError(
                f"lookahead ({self.lookahead}) must be at least 1 and below kernel_size "
                f"({self.kernel_size})"
            )
        if self.hop_length % self.subframes:
            raise ConfigError(
                f"hop_length ({self.hop_length}) must be a multiple of subframes ({self.subframes})"
            )
        if self.n_fft % 2 or self.n_fft < 3 * self.subframe_length:
            raise ConfigError(
                f"n_fft ({self.n_fft}) must be even and at least three subframes "
                f"({3 * self.subframe_length})"
            )
        nyquist = self.sampling_rate / 2
        if self.pitch_bins < 2 or not 0 < self.lowest_f0 < self.highest_f0 < nyquist:
            raise ConfigError(
                "F0 needs two pitch_bins or more, and lowest_f0 below highest_f0 below half of "
                "sampling_rate"
            )
        if not 0 <= self.noise_modulation <= 1:
            raise ConfigError(f"noise_modulation ({self.noise_modulation}) must be from 0 to 1")
        if not 0 < self.highest_mel_hz <= nyquist:
            raise ConfigError(
                f"highest_mel_hz ({self.highest_mel_hz}) must be at most half of sampling_rate"
            )

    @property
    def subframe_length(self) -> int:
        """Samples between filters."""
        return self.hop_length // self.subframes

    @property
    def mel_step(self) -> float:
        """Distance of the mel bands in mels, which is that of a filter's points too."""
        return hz_to_mel(self.highest_mel_hz) / (self.in_channels + 1)

    @property
    def filter_points(self) -> int:
        """Points of a filter: the centres of the mel bands, zero, and what goes on to Nyquist."""
        return math.ceil(hz_to_mel(self.sampling_rate / 2) / self.mel_step - 1e-9) + 1

    @property
    def lookahead_frames(self) -> int:
        """Mel frames that streaming waits for behind a frame."""
        return self.lookahead + 1
