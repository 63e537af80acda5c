"""HiFT vocoder: mel to waveform by a harmonic source and an inverse transform (spec, section 10).

Parameters have the names of the public ``hift.pt`` without its prefix. Every part takes rows of
different lengths and treats each as if it were alone; `hift_stream` runs the same parts over
windows.

Shape legend: B batch, M mel bands, C channels, T mel frames, F frames inside, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from stepaudio.models.token2wav.hift_config import CONV_KERNEL, HiftConfig
from stepaudio.models.token2wav.hift_layers import (
    F0Predictor,
    HarmonicSource,
    ResBlock,
    normed_conv,
)
from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.spectral import centred_stft, num_stft_frames, trimmed_istft
from stepaudio.models.token2wav.windows import masked, valid_mask

_LARGEST_MAGNITUDE = 100.0
_LAST_SLOPE = 0.01  # of the leaky ReLU behind the ladder: PyTorch's default, unlike the others
_PREFIX = "generator."


@dataclass(frozen=True)
class Excitation:
    """How the source of a whole signal is made.

    Attributes:
        seeds: seed of every row's noise; None: no noise.
        first_samples: absolute position of every row's first sample, for the noise; None: 0.
        cached: source that replaces the beginning of the computed one, [1, n] for every row.
    """

    seeds: Sequence[int] | None = None
    first_samples: Sequence[int] | None = None
    cached: Sequence[Tensor] | None = None


class HiftVocoder(nn.Module):
    """Parts of the vocoder; `forward` is the whole of it."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        spectrum = config.spectrum_channels
        self.m_source = HarmonicSource(config)
        self.conv_pre = normed_conv(config.in_channels, config.base_channels, CONV_KERNEL)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for stage in range(config.num_stages):
            self._add_stage(stage)
        width = config.stage_channels(config.num_stages - 1)
        self.conv_post = normed_conv(width, spectrum, CONV_KERNEL)
        self.f0_predictor = F0Predictor(config.f0_predictor)

    def _add_stage(self, stage: int) -> None:
        config = self.config
        width = config.stage_channels(stage)
        rate, kernel = config.upsample_rates[stage], config.upsample_kernel_sizes[stage]
        up = nn.ConvTranspose1d(2 * width, width, kernel, rate, padding=(kernel - rate) // 2)
        self.ups.append(weight_norm(up))
        stride = config.source_strides[stage]
        size, padding = (1, 0) if stride == 1 else (2 * stride, stride // 2)
        self.source_downs.append(
            nn.Conv1d(config.spectrum_channels, width, size, stride, padding=padding)
        )
        self.source_resblocks.append(
            ResBlock(
                width,
                config.source_resblock_kernel_sizes[stage],
                config.source_resblock_dilation_sizes[stage],
            )
        )
        blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        self.resblocks.extend(ResBlock(width, k, dilations) for k, dilations in blocks)

    # ---- parts ---------------------------------------------------------------------------------

    def spectrum(self, source_B1S: Tensor, lens: Sequence[int]) -> Tensor:
        """Real and imaginary parts [B, C, F] of the source; `lens` in samples."""
        transform = self.config.istft_params
        spectrum = centred_stft(source_B1S[:, 0], lens, transform.n_fft, transform.hop_len)
        return torch.cat([spectrum.real, spectrum.imag], dim=1)

    def branch(self, stage: int, spectrum_BCF: Tensor, lens: Sequence[int]) -> Tensor:
        """The source's frames of one stage; `lens` in frames of the transform."""
        stride = self.config.source_strides[stage]
        counts = [n if stride == 1 else max(n - 1, 0) // stride for n in lens]
        spectrum = masked(spectrum_BCF, valid_mask(lens, spectrum_BCF))
        x = self.source_downs[stage](spectrum)[..., : max(counts)]
        mask = valid_mask(counts, x)
        return self.source_resblocks[stage](masked(x, mask), mask)

    def pre(self, mel_BMT: Tensor, lens: Sequence[int]) -> Tensor:
        """Input of the ladder."""
        mel = masked(mel_BMT, valid_mask(lens, mel_BMT))
        return masked(self.conv_pre(mel), valid_mask(lens, mel))

    def stage(self, stage: int, x_BCF: Tensor, side_BCF: Tensor, lens: Sequence[int]) -> Tensor:
        """One stage of the ladder; `lens` in frames of its input."""
        rate = self.config.upsample_rates[stage]
        counts = [n * rate for n in lens]
        x = masked(x_BCF, valid_mask(lens, x_BCF))
        x = self.ups[stage](F.leaky_relu(x, self.config.lrelu_slope))
        if stage == self.config.num_stages - 1:
            x = F.pad(x, (1, 0), mode="reflect")
            counts = [n + 1 for n in counts]
        mask = valid_mask(counts, x)
        x = masked(x + side_BCF, mask)
        num = len(self.config.resblock_kernel_sizes)
        outputs = [block(x, mask) for block in self.resblocks[stage * num : (stage + 1) * num]]
        return torch.stack(outputs).sum(dim=0) / num

    def post(self, x_BCF: Tensor, lens: Sequence[int]) -> Tensor:
        """Samples [B, S] from the ladder's output."""
        transform = self.config.istft_params
        x = masked(x_BCF, valid_mask(lens, x_BCF))
        x = self.conv_post(F.leaky_relu(x, _LAST_SLOPE))
        half = transform.n_fft // 2 + 1
        magnitude = x[:, :half].exp().clamp(max=_LARGEST_MAGNITUDE)
        # The reference takes the sine of what it calls the phase, once more than meant.
        spectrum = torch.polar(magnitude, torch.sin(x[:, half:]))
        n_fft = transform.n_fft
        wav = trimmed_istft(spectrum, lens, n_fft, transform.hop_len, margin=n_fft // 2)
        return wav.clamp(-self.config.audio_limit, self.config.audio_limit)

    # ---- whole signals -------------------------------------------------------------------------

    def excite(self, f0_B1T: Tensor, lens: Sequence[int], excitation: Excitation) -> Tensor:
        """Source [B, 1, S] of a whole signal from its fundamental frequency."""
        hop = self.config.hop_length
        before = f0_B1T.new_zeros(len(lens), self.config.num_harmonics, dtype=torch.float64)
        cycles = self.m_source.cycles(f0_B1T, before)
        noise_at = None
        if excitation.seeds is not None:
            noise_at = (excitation.seeds, excitation.first_samples or [0] * len(lens))
        source = self.m_source(f0_B1T, cycles, lens, noise_at)
        source = masked(source, valid_mask([n * hop for n in lens], source))
        if excitation.cached is None:
            return source
        rows = [
            torch.cat([old, new[:, old.shape[-1] :]], dim=-1)
            for old, new in zip(excitation.cached, source, strict=True)
        ]
        return torch.stack(rows)

    def decode(self, mel_BMT: Tensor, source_B1S: Tensor, lens: Sequence[int]) -> Tensor:
        """Waveforms [B, S] of whole mels from a given source."""
        samples = [n * self.config.hop_length for n in lens]
        spectrum = self.spectrum(source_B1S, samples)
        frames = [num_stft_frames(n, self.config.istft_params.hop_len) for n in samples]
        x, counts = self.pre(mel_BMT, lens), list(lens)
        for stage, rate in enumerate(self.config.upsample_rates):
            x = self.stage(stage, x, self.branch(stage, spectrum, frames), counts)
            counts = [n * rate for n in counts]
        return self.post(x, [n + 1 for n in counts])

    def forward(
        self, mel_BMT: Tensor, lens: Sequence[int], excitation: Excitation
    ) -> tuple[Tensor, Tensor]:
        """Synthesise whole mels.

        Args:
            mel_BMT: log-mel; what lies behind a row's length is ignored.
            lens: frames of every row, at least one each.
            excitation: how the source is made.

        Returns:
            Waveforms [B, T * hop_length] and sources [B, 1, T * hop_length].

        Raises:
            ValueError: a row has no frames.
        """
        if min(lens) < 1:
            raise ValueError(f"every row needs a mel frame, got lengths {list(lens)}")
        source = self.excite(self.f0_predictor(mel_BMT, lens), lens, excitation)
        return self.decode(mel_BMT, source, lens), source


def hift_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of any public form of ``hift.pt`` to the names of `HiftVocoder`.

    A prefix ``generator.`` is removed. Weight norm may be stored as ``weight_g`` and ``weight_v``.
    """
    forms = {
        ".weight_g": ".parametrizations.weight.original0",
        ".weight_v": ".parametrizations.weight.original1",
    }
    renamed = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(_PREFIX)
        for old, new in forms.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        renamed[name] = tensor
    return renamed


def load_hift(
    path: str | Path, config: HiftConfig | None = None, *, trainable: bool = False
) -> HiftVocoder:
    """Load a vocoder from ``hift.pt`` or a safetensors file.

    Args:
        path: weights in one of the forms of `hift_tensors`, or with plain weights.
        config: architecture; None: the public one.
        trainable: keep the weights as they are trained; otherwise `prepare_inference` is applied.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit.
    """
    with torch.device("meta"):
        vocoder = HiftVocoder(config or HiftConfig())
    tensors = _with_weight_norm(hift_tensors(read_tensors(path)), vocoder)
    load_strict(vocoder, tensors, path)
    return vocoder if trainable else prepare_inference(vocoder)


def prepare_inference(vocoder: HiftVocoder) -> HiftVocoder:
    """Fuse weight norm and make the predictor of F0 float64, in place; training ends here."""
    for child in vocoder.modules():
        if parametrize.is_parametrized(child, "weight"):
            parametrize.remove_parametrizations(child, "weight", leave_parametrized=True)
    vocoder.f0_predictor.double()
    return vocoder.eval()


def _with_weight_norm(tensors: dict[str, Tensor], vocoder: HiftVocoder) -> dict[str, Tensor]:
    """Split plain weights into magnitude and direction where the model has both."""
    split = dict(tensors)
    for name in vocoder.state_dict():
        plain = name.replace(".parametrizations.weight.original0", ".weight")
        if plain != name and plain in split:
            weight = split.pop(plain)
            split[name] = weight.float().flatten(1).norm(dim=1)[:, None, None]
            split[name.removesuffix("0") + "1"] = weight
    return split
