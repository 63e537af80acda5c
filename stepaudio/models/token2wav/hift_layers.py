"""Parts of the HiFT vocoder: residual blocks, predictor of F0, harmonic source.

Shape legend: B batch, C channels, T frames, M mel bands, H harmonics, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from stepaudio.models.token2wav.hift_config import F0_KERNEL, F0_LAYERS, F0Config, HiftConfig
from stepaudio.models.token2wav.noise import positional_noise
from stepaudio.models.token2wav.windows import masked, valid_mask


def normed_conv(channels: int, out: int, kernel: int, dilation: int = 1) -> nn.Module:
    """Weight-normalised convolution that keeps the length."""
    padding = (kernel - 1) // 2 * dilation
    return weight_norm(nn.Conv1d(channels, out, kernel, dilation=dilation, padding=padding))


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha with one alpha for each channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Map [B, C, T] to the same shape; zero stays zero."""
        alpha = self.alpha[:, None]
        return x_BCT + torch.sin(x_BCT * alpha).square() / (alpha + 1e-9)


class ResBlock(nn.Module):
    """Dilated residual convolutions (HiFi-GAN, arXiv 2010.05646) with Snake activations."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(normed_conv(channels, channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(normed_conv(channels, channels, kernel) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x_BCT: Tensor, mask: Tensor | None) -> Tensor:
        """Map [B, C, T], zero outside `mask`, to the same."""
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for first_act, first, second_act, second in layers:
            y = masked(first(first_act(x_BCT)), mask)
            x_BCT = x_BCT + masked(second(second_act(y)), mask)
        return x_BCT


class F0Predictor(nn.Module):
    """Fundamental frequency of every mel frame.

    The phase of the source is its integral, in which rounding adds up. Inference therefore has it
    in float64, so that a stream does not drift from the whole signal.
    """

    def __init__(self, config: F0Config) -> None:
        super().__init__()
        width = config.cond_channels
        layers: list[nn.Module] = []
        for index in range(F0_LAYERS):
            layers += [normed_conv(width if index else config.in_channels, width, F0_KERNEL)]
            layers += [nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, config.num_class)

    def forward(self, mel_BMT: Tensor, lens: Sequence[int]) -> Tensor:
        """Predict Hz, [B, 1, T], in the type of the weights."""
        x = mel_BMT.to(self.classifier.weight.dtype)
        mask = valid_mask(lens, x)
        x = masked(x, mask)
        for layer in self.condnet:
            x = masked(layer(x), mask)
        return self.classifier(x.transpose(1, 2)).abs().transpose(1, 2)


class HarmonicSource(nn.Module):
    """Sines at multiples of F0, and noise, merged to one signal.

    The sample between the middles of two frames has a phase between theirs. The reference adds
    random start phases to its first sample, which its interpolation never reads: they have no
    effect there, and we have none.
    """

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        self.l_linear = nn.Linear(config.num_harmonics, 1)

    def _cycles_per_sample(self, f0_B1T: Tensor) -> Tensor:
        """Cycles of every harmonic in one sample, float64 [B, H, T]."""
        harmonics = torch.arange(1, self.config.num_harmonics + 1, device=f0_B1T.device)
        # float32 up to here, as in the reference.
        return (f0_B1T.float() * harmonics[:, None] / self.config.sampling_rate % 1).double()

    def cycles(self, f0_B1T: Tensor, before_BH: Tensor) -> Tensor:
        """Phase at the middle of every frame in cycles, modulo 1.

        Args:
            f0_B1T: Hz.
            before_BH: float64 phase of the frame before, zero at the start of a signal.

        Returns:
            float64 [B, H, T].
        """
        advance = self._cycles_per_sample(f0_B1T) * self.config.hop_length
        return (before_BH[..., None] + advance.cumsum(dim=-1)) % 1

    def forward(
        self,
        f0_B1T: Tensor,
        cycles_BHT: Tensor,
        lens: Sequence[int],
        noise_at: tuple[Sequence[int], Sequence[int]] | None,
    ) -> Tensor:
        """Build the source.

        Args:
            f0_B1T: Hz.
            cycles_BHT: from `cycles`.
            lens: frames of every row.
            noise_at: seed and absolute position of the first sample of every row; None: no noise.

        Returns:
            float32 [B, 1, S], S = T * hop_length; anything behind a row's end.
        """
        config = self.config
        sines = self._sines(f0_B1T, cycles_BHT, lens) * config.nsf_alpha
        voiced = (f0_B1T > config.nsf_voiced_threshold).float()
        voiced = voiced.repeat_interleave(config.hop_length, dim=-1)
        harmonics = sines * voiced
        if noise_at is not None:
            shape = (config.num_harmonics, sines.shape[-1])
            noise = positional_noise(*noise_at, shape, f0_B1T.device)
            level = voiced * config.nsf_sigma + (1 - voiced) * config.nsf_alpha / 3
            harmonics = harmonics + level * noise
        return torch.tanh(self.l_linear(harmonics.transpose(1, 2))).transpose(1, 2)

    def _sines(self, f0_B1T: Tensor, cycles_BHT: Tensor, lens: Sequence[int]) -> Tensor:
        hop = self.config.hop_length
        rate = self._cycles_per_sample(f0_B1T)
        after = F.pad(rate[..., 1:], (0, 1))  # up to the next frame's middle
        mask = valid_mask([max(length - 1, 0) for length in lens], after)
        after = masked(after, mask)  # behind the last middle the phase stands still
        rate = torch.cat([torch.zeros_like(rate[..., :1]), rate[..., 1:]], dim=-1)
        offset = torch.arange(hop, device=rate.device, dtype=torch.float64) - (hop - 1) / 2
        cycles = (
            cycles_BHT[..., None]
            + rate[..., None] * offset.clamp(max=0)
            + after[..., None] * offset.clamp(min=0)
        )
        return torch.sin((cycles % 1).float() * (2 * math.pi)).flatten(-2)
