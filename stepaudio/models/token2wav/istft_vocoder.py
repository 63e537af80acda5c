"""A light vocoder: causal ConvNeXt blocks at the rate of the mel, and one inverse transform.

After Vocos (arXiv 2306.00814): magnitudes and phases are predicted for every mel frame, and nothing
runs at a higher rate. All convolutions look left only, but for a few frames at the input, so that
every layer's stream needs nothing but its last frames.

Shape legend: B batch, M mel bands, T mel frames, D width, K frequencies, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection
from stepaudio.models.token2wav.causal_block import CausalBlock
from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.spectral import trimmed_istft
from stepaudio.models.token2wav.vocoder import VocoderMode
from stepaudio.models.token2wav.windows import (
    Reach,
    StageTail,
    masked,
    run_stage,
    stack_rows,
    valid_mask,
)

_LARGEST_MAGNITUDE = 100.0


@dataclass(frozen=True, kw_only=True)
class IstftVocoderConfig(ConfigSection):
    """Architecture of the light vocoder.

    Attributes:
        in_channels: mel bands.
        sampling_rate: of the waveform in Hz.
        hop_length: samples for every mel frame.
        n_fft: samples of the transform; the sound waits for ``(n_fft - hop_length) / 2`` samples.
        hidden_size: width of the blocks.
        intermediate_size: hidden width of their feed-forward layers.
        num_layers: blocks.
        kernel_size: frames that every convolution spans.
        lookahead: mel frames that the first convolution looks to the right.
        audio_limit: largest magnitude of a sample.
    """

    in_channels: int = 80
    sampling_rate: int = 24_000
    hop_length: int = 480
    n_fft: int = 1920
    hidden_size: int = 256
    intermediate_size: int = 768
    num_layers: int = 8
    kernel_size: int = 7
    lookahead: int = 2
    audio_limit: float = 0.99

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.hop_length, self.hidden_size, self.intermediate_size)
        if min(sizes) < 1 or self.num_layers < 0 or self.kernel_size < 1:
            raise ConfigError("sizes of the vocoder must be positive")
        if not 0 <= self.lookahead < self.kernel_size:
            raise ConfigError(
                f"lookahead ({self.lookahead}) must be below kernel_size ({self.kernel_size})"
            )
        # Below twice the hop, some samples would lie in one window only, at its silent edge.
        if self.n_fft < 2 * self.hop_length or (self.n_fft - self.hop_length) % 2:
            raise ConfigError(
                f"n_fft ({self.n_fft}) must be at least twice hop_length ({self.hop_length}), and "
                "their difference even"
            )

    @property
    def margin(self) -> int:
        """Samples that the first window reaches before the sound."""
        return (self.n_fft - self.hop_length) // 2

    @property
    def synthesis_reach(self) -> Reach:
        """Geometry of the inverse transform."""
        return Reach(
            up=self.hop_length, context=self.margin, left_context=self.margin + self.hop_length
        )


@dataclass(frozen=True)
class IstftState:
    """Memory of one session.

    Attributes:
        mel: last mel frames, [M, kernel_size - 1] once as many were heard, zeros before the first.
        layers: last input frames of every block, [D, kernel_size - 1].
        synthesis: spectra that later samples still need.
    """

    mel: Tensor
    layers: tuple[Tensor, ...]
    synthesis: StageTail


class IstftVocoder(nn.Module):
    """The light vocoder, with the interface of `Vocoder`; it has no noise, so seeds are unused."""

    def __init__(self, config: IstftVocoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed = nn.Conv1d(config.in_channels, width, config.kernel_size)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            CausalBlock(
                width, config.intermediate_size, config.kernel_size, 1.0 / config.num_layers
            )
            for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.n_fft + 2)

    @property
    def sample_rate(self) -> int:
        """Of the waveform in Hz."""
        return self.config.sampling_rate

    @property
    def num_mels(self) -> int:
        """Mel bands."""
        return self.config.in_channels

    @property
    def hop_length(self) -> int:
        """Samples for every mel frame."""
        return self.config.hop_length

    @property
    def modes(self) -> tuple[VocoderMode, ...]:
        """Ways in which it can stream; the public code has no reference for it."""
        return ("exact",)

    @property
    def lookahead_frames(self) -> int:
        """Mel frames that streaming waits for behind a frame."""
        return self.config.lookahead - (-self.config.margin // self.config.hop_length)

    # ---- parts ---------------------------------------------------------------------------------

    def _spectra(
        self, extended_BMT: Tensor, tails: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Spectra of the frames behind the tails, and each block's inputs with its tail."""
        x = self.norm(self.embed(extended_BMT).transpose(1, 2)).transpose(1, 2)
        inputs = []
        for block, tail in zip(self.blocks, tails, strict=True):
            x, extended = block(x, tail)
            inputs.append(extended)
        spectrum = self.head(self.final_norm(x.transpose(1, 2))).transpose(1, 2)
        return spectrum, inputs

    def _samples(self, spectrum_BFT: Tensor, lens: Sequence[int]) -> Tensor:
        """Waveforms [B, T * hop_length] from logarithmic magnitudes and phases."""
        config = self.config
        log_magnitude, phase = spectrum_BFT.chunk(2, dim=1)
        magnitude = log_magnitude.exp().clamp(max=_LARGEST_MAGNITUDE)
        complex_BKT = torch.polar(magnitude, phase)
        wav = trimmed_istft(complex_BKT, lens, config.n_fft, config.hop_length, config.margin)
        return wav.clamp(-config.audio_limit, config.audio_limit)

    def _silence(self, rows: int, like: Tensor) -> list[Tensor]:
        """Tails of the blocks before the first frame."""
        shape = rows, self.config.hidden_size, self.config.kernel_size - 1
        return [like.new_zeros(shape)] * self.config.num_layers

    # ---- whole signals -------------------------------------------------------------------------

    def forward(self, mel_BMT: Tensor, lens: Sequence[int]) -> Tensor:
        """Turn whole mels into waveforms [B, T * hop_length], zero behind each row's end.

        Args:
            mel_BMT: log-mel; what lies behind a row's length is ignored.
            lens: frames of every row, at least one each.

        Raises:
            ValueError: a row has no frames.
        """
        if min(lens) < 1:
            raise ValueError(f"every row needs a mel frame, got lengths {list(lens)}")
        right = self.config.lookahead
        mel = masked(mel_BMT, valid_mask(lens, mel_BMT))
        padded = F.pad(mel, (self.config.kernel_size - 1 - right, right))
        spectrum, _ = self._spectra(padded, self._silence(len(lens), mel))
        return self._samples(spectrum, lens)

    def synthesise(
        self, mel: Tensor, mel_lens: Sequence[int], *, seeds: Sequence[int] | None
    ) -> Tensor:
        """Turn whole mels [B, M, T] into waveforms [B, T * hop_length]; see `Vocoder`."""
        return self(mel, mel_lens)

    # ---- streams -------------------------------------------------------------------------------

    def init_state(self, *, mode: VocoderMode, seed: int) -> IstftState:
        """State of a session that has heard nothing; see `Vocoder`.

        Raises:
            ValueError: `mode` is "reference", which the public code has for HiFT only.
        """
        if mode not in self.modes:
            raise ValueError(f"this vocoder streams in mode 'exact' only, got {mode!r}")
        weight = self.head.weight
        left = self.config.kernel_size - 1 - self.config.lookahead
        mel = weight.new_zeros(self.config.in_channels, left)
        layers = tuple(tail[0] for tail in self._silence(1, weight))
        return IstftState(mel, layers, StageTail(weight.new_zeros(0, 0)))

    def step(
        self, mels: Sequence[Tensor], states: Sequence[IstftState], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[IstftState]]:
        """Advance sessions by their next mel frames; see `Vocoder`."""
        kernel = self.config.kernel_size
        extended = [
            torch.cat([state.mel, F.pad(mel, (0, self.config.lookahead if ends else 0))], dim=-1)
            for state, mel, ends in zip(states, mels, last, strict=True)
        ]
        counts = [max(0, rows.shape[-1] - kernel + 1) for rows in extended]
        layers = [state.layers for state in states]
        spectra = [self.head.weight.new_zeros(self.config.n_fft + 2, 0) for _ in states]
        active = [i for i, count in enumerate(counts) if count]
        if active:
            tails = [torch.stack(rows) for rows in zip(*(layers[i] for i in active), strict=True)]
            spectrum, inputs = self._spectra(stack_rows([extended[i] for i in active]), tails)
            for row, i in enumerate(active):
                spectra[i] = spectrum[row, :, : counts[i]]
                # What lies behind a row's own frames is padding, which no earlier frame has seen.
                layers[i] = tuple(
                    values[row, :, counts[i] : counts[i] + kernel - 1].clone() for values in inputs
                )
        wavs, synthesis = run_stage(
            self.config.synthesis_reach,
            lambda x, _, rows: self._samples(x, rows.lens)[:, None],
            spectra,
            [state.synthesis for state in states],
            last,
        )
        new_states = [
            IstftState(extended[i][:, counts[i] :].clone(), layers[i], synthesis[i])
            for i in range(len(states))
        ]
        return [wav.flatten() for wav in wavs], new_states


def load_istft_vocoder(path: str | Path, config: IstftVocoderConfig) -> IstftVocoder:
    """Load a light vocoder in evaluation mode.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit.
    """
    with torch.device("meta"):
        vocoder = IstftVocoder(config)
    load_strict(vocoder, read_tensors(path), path)
    return vocoder.eval()
