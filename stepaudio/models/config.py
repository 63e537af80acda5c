"""Architecture configuration, one set of fields for every model size.

The fields of the public ``config.json`` are required, because the defaults of the published
configuration classes are placeholders (specification, section 6). Our extensions default to the
public behaviour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from stepaudio.audio.frames import FrameGeometry
from stepaudio.audio.mel import MelFloor
from stepaudio.errors import ConfigError

_Section = TypeVar("_Section", bound="ConfigSection")


class ConfigSection:
    """Strict reading and plain writing of one section of ``config.json``."""

    # Keys of public files that carry no information for us.
    _ignored: ClassVar[frozenset[str]] = frozenset()
    # Public fields that are written although they have their default value.
    _always_written: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def from_dict(cls: type[_Section], values: Mapping[str, Any]) -> _Section:
        """Build the section; unknown and missing fields raise ConfigError."""
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = set(values) - set(fields) - cls._ignored
        missing = [
            f.name
            for f in fields.values()
            if f.name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if unknown or missing:
            raise ConfigError(
                f"{cls.__name__}: unknown fields {sorted(unknown)}, missing fields {missing}; "
                "a checkpoint's config.json must name every field of its architecture"
            )
        known = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in fields
        }
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Write the fields as plain JSON values; extensions only where they depart from the public
        behaviour, so that other tools find the file that they know."""
        values = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value != f.default or f.name in self._always_written:
                values[f.name] = list(value) if isinstance(value, tuple) else value
        return values


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig(ConfigSection):
    """Audio encoder and adaptor (specification, sections 2 and 3).

    Attributes:
        n_mels: mel bands.
        n_audio_ctx: rows of the position table; unused with rotary positions.
        n_audio_state: encoder width.
        n_audio_head: attention heads.
        n_audio_layer: transformer blocks.
        llm_dim: width of the decoder that the adaptor feeds.
        kernel_size: kernel of the adaptor's convolution.
        adapter_stride: stride of the adaptor's convolution.
        chunk_frames: mel frames per streaming chunk. If set, convolutions are causal and the
            encoder can stream; absent, the encoder is the public, bidirectional one.
        left_context: mel frames before its chunk that a frame may attend to.
        mel_floor: dynamic-range floor of the mel, see `stepaudio.audio.mel`.
        conv_strides: strides of the two input convolutions.
        pool_layer: number of blocks before the average pooling; absent, all of them.
        conv_kernel: kernel of a Conformer-style convolution module in every block; 0: none.
        position: learned table of absolute positions, or rotary (needed for endless streams).
        mlp_ratio: width of the feed-forward layers in units of the encoder width.
        adapter_type: "conv" (conv, linear, ReLU, linear) or one "linear" layer.
        adapter_hidden: hidden width of the "conv" adaptor.
        ctc_tokens: characters of the CTC head behind the blank; empty: no head.
        ctc_phones: phones of a second CTC head, in their order behind the blank; empty: no head.
        ctc_upsample: CTC frames for every encoder frame.
        n_codebook_size: unused field of public files, kept so that it is written back.
    """

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    llm_dim: int
    kernel_size: int
    adapter_stride: int
    chunk_frames: int | None = None
    left_context: int | None = None
    mel_floor: MelFloor = "piece"
    conv_strides: tuple[int, int] = (1, 2)
    pool_layer: int | None = None
    conv_kernel: int = 0
    position: Literal["table", "rotary"] = "table"
    mlp_ratio: float = 4.0
    adapter_type: Literal["conv", "linear"] = "conv"
    adapter_hidden: int = 2048
    ctc_tokens: str = ""
    ctc_phones: tuple[str, ...] = ()
    ctc_upsample: int = 2
    n_codebook_size: int | None = None

    def __post_init__(self) -> None:
        if self.n_audio_state % self.n_audio_head:
            raise ConfigError("n_audio_state must be a multiple of n_audio_head")
        if self.adapter_type == "linear" and self.adapter_stride != 1:
            raise ConfigError("a linear adaptor cannot stride: set adapter_stride to 1")
        if self.chunk_frames is None:
            self._check_public_geometry()
        else:
            self._check_streaming()

    def _check_public_geometry(self) -> None:
        extensions = (
            self.left_context is not None
            or self.conv_strides != (1, 2)
            or self.pool_layer not in (None, self.n_audio_layer)
            or self.conv_kernel
        )
        if extensions:
            raise ConfigError(
                "left_context, conv_strides, pool_layer and conv_kernel need causal "
                "convolutions: set chunk_frames"
            )

    def _check_streaming(self) -> None:
        stride = self.geometry.encoder_stride
        for name in ("chunk_frames", "left_context"):
            value = getattr(self, name)
            if value is None or value % stride or value < 0:
                raise ConfigError(f"{name} must be a multiple of {stride} mel frames, got {value}")
        if self.position != "rotary" or self.mel_floor != "fixed" or self.adapter_type != "linear":
            raise ConfigError(
                "an encoder with chunk_frames needs position 'rotary', mel_floor 'fixed' and "
                "adapter_type 'linear', or streamed output would differ from offline output"
            )

    @property
    def geometry(self) -> FrameGeometry:
        """Frame arithmetic of this encoder and its adaptor."""
        return FrameGeometry(
            causal=self.chunk_frames is not None,
            conv_strides=self.conv_strides,
            adaptor_stride=self.adapter_stride,
        )

    @property
    def blocks_before_pool(self) -> int:
        """Number of blocks that run before the average pooling."""
        return self.n_audio_layer if self.pool_layer is None else self.pool_layer


@dataclass(frozen=True, kw_only=True)
class TextConfig(ConfigSection):
    """Decoder over text and audio tokens (specification, sections 4 and 6).

    Attributes:
        vocab_size: rows of the embedding table and of the head.
        hidden_size: decoder width.
        intermediate_size: width of the SwiGLU feed-forward layers.
        num_hidden_layers: decoder layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads, each shared by a group of query heads.
        rms_norm_eps: epsilon of every norm.
        rope_theta: base of the rotary frequencies.
        max_position_embeddings: longest context in tokens.
        eos_token_id: tokens that end a generation, as given: one id or several.
        pad_token_id: padding token.
        hidden_act: activation of the feed-forward layers, only "silu".
        num_attention_groups: second public name of `num_key_value_heads`.
        rope_scaling: must be None.
        max_seq_len: second public name of `max_position_embeddings`; informative.
        initializer_range: standard deviation of fresh weights.
        torch_dtype: storage type of the weights; informative.
        head_dim: width of a head; None: `hidden_size / num_attention_heads`.
        use_sliding_window: whether any layer has a sliding window.
        sliding_window: tokens that a windowed layer sees, its own included.
        max_window_layers: windowed layers are those from this index on.
        sliding_layers: indices of the windowed layers, instead of `max_window_layers`.
    """

    _ignored = frozenset({"attention_dropout", "model_type", "use_cache"})
    _always_written = frozenset(
        {"hidden_act", "initializer_range", "rope_scaling", "use_sliding_window"}
    )

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    eos_token_id: int | tuple[int, ...]
    pad_token_id: int
    hidden_act: str = "silu"
    num_attention_groups: int | None = None
    rope_scaling: None = None
    max_seq_len: int | None = None
    initializer_range: float = 0.02
    torch_dtype: str | None = None
    head_dim: int | None = None
    use_sliding_window: bool = False
    sliding_window: int | None = None
    max_window_layers: int | None = None
    sliding_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_attention_groups not in (None, self.num_key_value_heads):
            raise ConfigError(
                f"num_attention_groups ({self.num_attention_groups}) and num_key_value_heads "
                f"({self.num_key_value_heads}) name the same number and must be equal"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError("num_attention_heads must be a multiple of num_key_value_heads")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError("hidden_size must be a multiple of num_attention_heads")
        if self.head_width % 2:
            raise ConfigError(f"rotary positions need an even head width, got {self.head_width}")
        if self.hidden_act != "silu":
            raise ConfigError(f"hidden_act must be 'silu', got {self.hidden_act!r}")
        if self.rope_scaling is not None:
            raise ConfigError(f"rope_scaling is not supported, got {self.rope_scaling!r}")
        if self.use_sliding_window and (self.sliding_window is None or self.sliding_window < 1):
            raise ConfigError("use_sliding_window needs a sliding_window of at least one token")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """Sliding window of every layer in tokens, None where a layer sees the whole context."""
        layers = range(self.num_hidden_layers)
        if not self.use_sliding_window:
            return (None,) * len(layers)
        if self.sliding_layers is not None:
            chosen = set(self.sliding_layers)
        else:
            chosen = set(layers[self.max_window_layers or 0 :])
        return tuple(self.sliding_window if i in chosen else None for i in layers)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids of `eos_token_id`."""
        ids = self.eos_token_id
        return ids if isinstance(ids, tuple) else (ids,)
