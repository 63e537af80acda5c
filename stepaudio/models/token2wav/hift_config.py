"""Configuration of the HiFT vocoder (specification, section 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection
from stepaudio.models.token2wav.windows import Reach

CONV_KERNEL = 7  # of the convolutions in front of the ladder and behind it
F0_KERNEL = 3
F0_LAYERS = 5


@dataclass(frozen=True, kw_only=True)
class IstftConfig(ConfigSection):
    """Transform at both ends of the vocoder: window and hop in samples."""

    n_fft: int = 16
    hop_len: int = 4

    def __post_init__(self) -> None:
        if self.hop_len < 1 or self.n_fft % (2 * self.hop_len):
            raise ConfigError(
                f"n_fft ({self.n_fft}) must be a multiple of twice hop_len ({self.hop_len})"
            )


@dataclass(frozen=True, kw_only=True)
class F0Config(ConfigSection):
    """Predictor of the fundamental frequency: mel bands in, width inside, and one value out."""

    in_channels: int = 80
    cond_channels: int = 512
    num_class: int = 1

    def __post_init__(self) -> None:
        if self.num_class != 1:
            raise ConfigError(f"num_class must be 1, got {self.num_class}")


@dataclass(frozen=True, kw_only=True)
class HiftConfig(ConfigSection):
    """HiFT vocoder; the defaults are those of the public checkpoint.

    Attributes:
        in_channels: mel bands.
        base_channels: width in front of the ladder; every stage halves it.
        nb_harmonics: harmonics of the source beside the fundamental.
        sampling_rate: of the waveform in Hz.
        nsf_alpha: amplitude of the sines.
        nsf_sigma: standard deviation of the noise where the voice sounds.
        nsf_voiced_threshold: lowest fundamental frequency of a voice in Hz.
        upsample_rates: of the stages.
        upsample_kernel_sizes: of the stages' transposed convolutions.
        istft_params: transform of the source and of the output.
        resblock_kernel_sizes: of the parallel residual blocks of every stage.
        resblock_dilation_sizes: of each of those.
        source_resblock_kernel_sizes: of the source's residual block of every stage.
        source_resblock_dilation_sizes: of each of those.
        lrelu_slope: in front of every stage.
        audio_limit: largest magnitude of a sample.
        f0_predictor: predictor of the fundamental frequency.
        stream_cache_frames: mel frames, and the source of as many, that "reference" streaming
            hears again; their sound is cross-faded.
    """

    in_channels: int = 80
    base_channels: int = 512
    nb_harmonics: int = 8
    sampling_rate: int = 24_000
    nsf_alpha: float = 0.1
    nsf_sigma: float = 0.003
    nsf_voiced_threshold: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernel_sizes: tuple[int, ...] = (16, 11, 7)
    istft_params: IstftConfig = IstftConfig()
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernel_sizes: tuple[int, ...] = (7, 7, 11)
    source_resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    f0_predictor: F0Config = F0Config()
    stream_cache_frames: int = 8

    def __post_init__(self) -> None:
        stages = len(self.upsample_rates)
        for name in ("upsample_kernel_sizes", "source_resblock_kernel_sizes"):
            if len(getattr(self, name)) != stages:
                raise ConfigError(f"{name} needs one value for each of the {stages} stages")
        for kind in ("resblock", "source_resblock"):
            kernels = getattr(self, f"{kind}_kernel_sizes")
            if len(getattr(self, f"{kind}_dilation_sizes")) != len(kernels):
                raise ConfigError(f"{kind}_dilation_sizes needs one list for each kernel")
            if any(kernel % 2 == 0 for kernel in kernels):
                raise ConfigError(f"{kind}_kernel_sizes must be odd, got {list(kernels)}")
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if kernel < rate or (kernel - rate) % 2:
                raise ConfigError(
                    f"an upsampling kernel must exceed its rate by an even number, got kernel "
                    f"{kernel} for rate {rate}"
                )
        if self.base_channels % 2**stages:
            raise ConfigError(f"base_channels must be a multiple of {2**stages}")
        if self.f0_predictor.in_channels != self.in_channels:
            raise ConfigError("in_channels of vocoder and f0_predictor differ")
        if self.stream_cache_frames < 1 or stages < 1:
            raise ConfigError("stream_cache_frames and the number of stages must be positive")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HiftConfig:
        """Build from nested plain values.

        Raises:
            ConfigError: fields are unknown or contradictory.
        """
        nested = dict(values)
        parts: dict[str, type[ConfigSection]] = {
            "istft_params": IstftConfig,
            "f0_predictor": F0Config,
        }
        for name, section in parts.items():
            if name in nested:
                nested[name] = section.from_dict(nested[name])
        for name in ("resblock_dilation_sizes", "source_resblock_dilation_sizes"):
            if name in nested:
                nested[name] = [tuple(dilations) for dilations in nested[name]]
        return super().from_dict(nested)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return {
            name: value.to_dict() if isinstance(value, ConfigSection) else value
            for name, value in super().to_dict().items()
        }

    @property
    def num_stages(self) -> int:
        """Stages of the ladder."""
        return len(self.upsample_rates)

    @property
    def num_harmonics(self) -> int:
        """Sines of the source."""
        return self.nb_harmonics + 1

    @property
    def frames_per_mel(self) -> int:
        """Frames of the transform for every mel frame."""
        return math.prod(self.upsample_rates)

    @property
    def hop_length(self) -> int:
        """Samples for every mel frame."""
        return self.frames_per_mel * self.istft_params.hop_len

    @property
    def spectrum_channels(self) -> int:
        """Real and imaginary parts, or logarithmic magnitudes and phases, of a frame."""
        return self.istft_params.n_fft + 2

    def stage_channels(self, stage: int) -> int:
        """Width behind a stage."""
        return self.base_channels // 2 ** (stage + 1)

    @property
    def source_strides(self) -> tuple[int, ...]:
        """Frames of the source's transform for every frame of each stage."""
        rates = accumulate(reversed(self.upsample_rates[1:]), mul, initial=1)
        return tuple(reversed(list(rates)))


def resblock_reach(kernel: int, dilations: tuple[int, ...]) -> int:
    """Frames that a residual block looks to each side."""
    return (kernel - 1) // 2 * sum(dilation + 1 for dilation in dilations)


@dataclass(frozen=True)
class HiftReach:
    """How far every part of the vocoder looks; see `Reach`.

    Attributes:
        f0: mel to fundamental frequency.
        source: fundamental frequency to frames of the source's transform.
        branches: those to the source's frames of each stage.
        pre: mel to the input of the ladder.
        stages: input, and the source's frames, to the output of each stage.
        post: output of the ladder to samples.
    """

    f0: Reach
    source: Reach
    branches: tuple[Reach, ...]
    pre: Reach
    stages: tuple[Reach, ...]
    post: Reach

    @classmethod
    def of(cls, config: HiftConfig) -> HiftReach:
        """Compute the reach of every part."""
        n_fft, hop = config.istft_params.n_fft, config.istft_params.hop_len
        # A harmonic's phase is known behind the middle of a frame; a window reaches n_fft / 2.
        source = Reach(
            up=config.frames_per_mel,
            extra=1,
            context=-(-(config.hop_length // 2 + n_fft // 2) // hop),
        )
        conv = CONV_KERNEL // 2
        return cls(
            f0=Reach(context=F0_LAYERS * (F0_KERNEL // 2)),
            source=source,
            branches=tuple(_branch_reach(config, i) for i in range(config.num_stages)),
            pre=Reach(context=conv),
            stages=tuple(_stage_reach(config, i) for i in range(config.num_stages)),
            # A sample lies in n_fft / hop windows.
            post=Reach(up=hop, lead=1, context=hop * (conv + n_fft // (2 * hop) - 1)),
        )

    def samples_ready(self, num_frames: int, *, last: bool = False) -> int:
        """Samples that a stream has given after so many mel frames."""
        spectrum = self.source.ready(self.f0.ready(num_frames, last=last), last=last)
        x = self.pre.ready(num_frames, last=last)
        for branch, stage in zip(self.branches, self.stages, strict=True):
            side = branch.ready(spectrum, last=last)
            x = stage.ready(min(x, (side - stage.extra) // stage.up), last=last)
        return self.post.ready(x, last=last)

    def lookahead_frames(self, hop_length: int) -> int:
        """Mel frames that must follow a frame before all of its sound is given."""
        frames = 1
        while self.samples_ready(frames) < hop_length:
            frames += 1
        return frames - 1


def _branch_reach(config: HiftConfig, stage: int) -> Reach:
    stride = config.source_strides[stage]
    block = resblock_reach(
        config.source_resblock_kernel_sizes[stage], config.source_resblock_dilation_sizes[stage]
    )
    if stride == 1:
        return Reach(context=block)
    return Reach(down=stride, lead=1, context=block + 1)


def _stage_reach(config: HiftConfig, stage: int) -> Reach:
    rate, kernel = config.upsample_rates[stage], config.upsample_kernel_sizes[stage]
    block = max(
        resblock_reach(kernel, dilations)
        for kernel, dilations in zip(
            config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
        )
    )
    # The last stage has one more frame, reflected in front.
    extra = int(stage == config.num_stages - 1)
    return Reach(up=rate, extra=extra, context=(kernel - rate) // 2 + block + extra)
