"""Configuration of the flow: audio tokens to mel (specification, section 10).

The fields of the public ``flow.yaml`` keep their names. Ours (`SamplerConfig`, `StreamingConfig`)
default to the public behaviour.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection
from stepaudio.models.token2wav.chunks import ChunkSchedule

StreamingMode = Literal["reference", "exact"]
TimeSchedule = Literal["cosine", "linear"]


@dataclass(frozen=True, kw_only=True)
class _TypedSection(ConfigSection):
    """Section whose numbers are checked: a configuration file may hold anything."""

    def __post_init__(self) -> None:
        kinds: dict[object, tuple[type, ...]] = {
            "int": (int,),
            "float": (int, float),
            "bool": (bool,),
            "str": (str,),
        }
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            kind = kinds.get(f.type)
            if kind is None:
                continue
            if not isinstance(value, kind) or (isinstance(value, bool) and f.type != "bool"):
                raise ConfigError(f"{f.name} must be of type {f.type}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class FlowEncoderConfig(_TypedSection):
    """Upsampling conformer: embedded tokens to frames.

    Attributes:
        input_size: width of the embedded tokens.
        output_size: width of the encoder.
        num_blocks: layers at the rate of the tokens.
        num_up_blocks: layers at the rate of the frames.
        attention_heads: heads of every layer.
        linear_units: hidden width of the feed-forward layers.
        pre_lookahead_len: tokens that the first convolution looks to the right.
        up_stride: reach to the left of the convolution behind the upsampling is twice this.
        up_scale_factor: frames for every token.
        key_bias: whether the key projections have a bias.
        dropout_rate: dropout of the sublayers, in training.
        positional_dropout_rate: dropout of the embeddings, in training.
        attention_dropout_rate: dropout of the attention weights, in training.
        input_layer, pos_enc_layer_type, selfattention_layer_type, normalize_before: public fields
            of which one value is supported.
    """

    input_size: int
    output_size: int
    num_blocks: int
    num_up_blocks: int
    attention_heads: int
    linear_units: int
    pre_lookahead_len: int = 3
    up_stride: int = 2
    up_scale_factor: int = 2
    key_bias: bool = True
    dropout_rate: float = 0.1
    positional_dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    input_layer: str = "linear"
    pos_enc_layer_type: str = "rel_pos_espnet"
    selfattention_layer_type: str = "rel_selfattn"
    normalize_before: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_size % self.attention_heads or self.output_size % 2:
            raise ConfigError("output_size must be even and a multiple of attention_heads")
        supported = {
            "input_layer": "linear",
            "pos_enc_layer_type": "rel_pos_espnet",
            "selfattention_layer_type": "rel_selfattn",
            "normalize_before": True,
        }
        for name, value in supported.items():
            if getattr(self, name) != value:
                raise ConfigError(f"{name} must be {value!r}, got {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class FlowEstimatorConfig(_TypedSection):
    """Diffusion transformer that estimates the velocity.

    Attributes:
        in_channels: noisy mel, mu, speaker and condition together.
        out_channels: mel bands.
        depth: blocks.
        num_heads: attention heads.
        head_dim: width of a head.
        hidden_size: width of the blocks.
        mlp_ratio: hidden width of the feed-forward layers in units of `hidden_size`.
        frequency_size: sines and cosines of the time embedding.
    """

    in_channels: int
    out_channels: int
    depth: int
    num_heads: int
    head_dim: int
    hidden_size: int
    mlp_ratio: float = 4.0
    frequency_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels != 4 * self.out_channels:
            raise ConfigError(
                f"in_channels ({self.in_channels}) must be four times out_channels "
                f"({self.out_channels}): noisy mel, mu, speaker and condition"
            )
        if self.frequency_size % 2:
            raise ConfigError(f"frequency_size must be even, got {self.frequency_size}")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(_TypedSection):
    """How the ordinary differential equation is solved.

    Attributes:
        num_steps: Euler steps.
        cfg_rate: weight of classifier-free guidance; 0: no second batch at all.
        schedule: where the steps lie: "cosine", 1 - cos(pi/2 k/n), or "linear".
        noise_seed: seed of the noise, unless a call names another one.
        temperature: deviation of the noise that the steps begin with. A flow that is too small to
            draw details well sounds smoother below 1.
    """

    num_steps: int = 10
    cfg_rate: float = 0.7
    schedule: TimeSchedule = "cosine"
    noise_seed: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1 or min(self.cfg_rate, self.noise_seed, self.temperature) < 0:
            raise ConfigError(
                "num_steps must be positive; cfg_rate, noise_seed and temperature not negative"
            )
        if self.schedule not in ("cosine", "linear"):
            raise ConfigError(f"schedule must be 'cosine' or 'linear', got {self.schedule!r}")


@dataclass(frozen=True, kw_only=True)
class StreamingConfig(_TypedSection):
    """How tokens are cut into chunks.

    Attributes:
        mode: "reference" reproduces the public code, whose streamed mel is not its offline mel;
            "exact" has one chunk mask offline and streaming, so that both are equal.
        chunk_tokens: tokens of a chunk.
        first_chunk_tokens: tokens of the first chunk in "exact" mode; few, for low latency.
        chunk_growth: in "exact" mode a chunk has at most so many times the tokens of the one
            before it, until it has `chunk_tokens`, so that the next one is there before a short
            one was played; 0: no limit.
        left_context_tokens: tokens before its chunk that a chunk sees, in "exact" mode beside the
            whole prompt, in "reference" mode what its cache keeps beside as many frames as the
            prompt has.
    """

    mode: StreamingMode = "reference"
    chunk_tokens: int = 25
    first_chunk_tokens: int = 25
    chunk_growth: float = 0.0
    left_context_tokens: int = 50

    @property
    def schedule(self) -> ChunkSchedule:
        """Chunks of the "exact" mode, in tokens."""
        return ChunkSchedule.growing(
            self.first_chunk_tokens, self.chunk_tokens, self.left_context_tokens, self.chunk_growth
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_growth and not 1 <= self.chunk_growth < math.inf:
            raise ConfigError(f"chunk_growth must be 0 or at least 1, got {self.chunk_growth!r}")
        if self.mode not in ("reference", "exact"):
            raise ConfigError(f"mode must be 'reference' or 'exact', got {self.mode!r}")
        if min(self.chunk_tokens, self.first_chunk_tokens) < 1 or self.left_context_tokens < 0:
            raise ConfigError("chunks must have tokens and the left context cannot be negative")


@dataclass(frozen=True, kw_only=True)
class FlowConfig(_TypedSection):
    """The whole flow.

    Attributes:
        input_size: width of the embedded tokens.
        output_size: mel bands.
        spk_embed_dim: width of the speaker embedding.
        vocab_size: audio tokens.
        encoder, estimator, sampler, streaming: the parts.
    """

    input_size: int
    output_size: int
    spk_embed_dim: int
    vocab_size: int
    encoder: FlowEncoderConfig
    estimator: FlowEstimatorConfig
    sampler: SamplerConfig = SamplerConfig()
    streaming: StreamingConfig = StreamingConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.input_size != self.input_size:
            raise ConfigError("input_size of flow and encoder differ")
        if self.estimator.out_channels != self.output_size:
            raise ConfigError("output_size of the flow and out_channels of the estimator differ")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlowConfig:
        """Build from nested plain values, the JSON form of our checkpoints.

        Raises:
            ConfigError: fields are unknown, missing or contradictory.
        """
        parts: dict[str, type[ConfigSection]] = {
            "encoder": FlowEncoderConfig,
            "estimator": FlowEstimatorConfig,
            "sampler": SamplerConfig,
            "streaming": StreamingConfig,
        }
        nested = dict(values)
        for name, section in parts.items():
            if name in nested:
                if not isinstance(nested[name], Mapping):
                    raise ConfigError(f"{name}: expected fields, got {nested[name]!r}")
                nested[name] = section.from_dict(nested[name])
        return super().from_dict(nested)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values; fields of ours only where they depart from the public behaviour."""
        return {
            name: value.to_dict() if isinstance(value, ConfigSection) else value
            for name, value in super().to_dict().items()
        }

    @property
    def frames_per_token(self) -> int:
        """Mel frames for every audio token."""
        return self.encoder.up_scale_factor

    @property
    def lookahead_tokens(self) -> int:
        """Tokens behind a chunk that must be known before it can be decoded."""
        return self.encoder.pre_lookahead_len
