"""Hugging Face configuration class of the whole model.

It reads and writes the public ``config.json`` (specification, section 6): field names such as
``rope_theta`` and ``torch_dtype`` stay as they are, while transformers' own text configurations
would rename them on saving.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from transformers import PreTrainedConfig

from stepaudio.errors import ConfigError
from stepaudio.models.config import AudioEncoderConfig, TextConfig
from stepaudio.models.dialogue_config import DialogueConfig
from stepaudio.models.speech_config import SpeechConfig
from stepaudio.text.vocab import AUDIO_PATCH, AUDIO_START, ENDOFTEXT, EOT, IM_END, PUBLIC_IDS

MODEL_TYPE = "step_audio_2"
FORMAT_VERSION = 1  # of our additions to the checkpoint; public files have none

# ``torch_dtype`` stands at the top level in both forms.
_TEXT_FIELDS = frozenset(f.name for f in dataclasses.fields(TextConfig)) - {"torch_dtype"}
# Text fields that public files write at the top level.
_WINDOW_FIELDS = frozenset({"use_sliding_window", "sliding_window", "max_window_layers"})
# Fields that transformers writes into every nested configuration.
_HF_FIELDS = frozenset(PreTrainedConfig().to_dict()) | {"auto_map", "_attn_implementation"}
# The same of transformers 4, whose configurations also held what generation needs.
_HF4_FIELDS = frozenset(
    """
    _attn_implementation_autoset add_cross_attention attention_dropout bad_words_ids
    begin_suppress_tokens bos_token_id cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    is_decoder length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_scores pad_token_id prefix pruned_heads remove_invalid_values
    repetition_penalty return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
    torchscript typical_p use_bfloat16 use_cache
    """.split()
)
# End tokens of the public vocabulary. The reference adds them to those of the file, which may name
# ``<|endoftext|>`` alone (specification, section 6).
_PUBLIC_STOPS = frozenset(PUBLIC_IDS[name] for name in (ENDOFTEXT, IM_END, EOT))


class StepAudioConfig(PreTrainedConfig):
    """Configuration of `StepAudio2ForCausalLM`.

    Both public forms are read: text fields nested in ``text_config``, or flat at the top level.
    The nested form is written.

    Attributes:
        text_config: the decoder.
        audio_encoder_config: audio encoder and adaptor.
        tie_word_embeddings: whether the head shares the embedding table. False unless the file
            says otherwise; transformers would tie where the field is absent.
        prompts: task prompts that belong to the weights, by task name; None: the public ones.
        variant: "instruct", "base" or "think"; None: what the checkpoint's name says.
        modes: tasks that the weights were trained for; None: those of the public variant.
        dialogue: how the model converses.
        speech: how the model reads aloud.
        audio_start_token_id: token in front of every audio that the model hears.
        audio_patch_token_id: placeholder that one latent replaces.
        format_version: version of our checkpoint additions.
        weights_sha256: hash of the weights, see `stepaudio.models.checkpoint`.
    """

    model_type: ClassVar[str] = MODEL_TYPE

    def __init__(
        self,
        text_config: TextConfig | Mapping[str, Any] | None = None,
        audio_encoder_config: AudioEncoderConfig | Mapping[str, Any] | None = None,
        tie_word_embeddings: bool = False,
        prompts: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("model_type", None)
        kwargs.pop("transformers_version", None)
        flat = {k: kwargs.pop(k) for k in _TEXT_FIELDS & set(kwargs)}
        if text_config is None or isinstance(text_config, Mapping):
            text_config = flat | dict(text_config or {})
        if audio_encoder_config is None:
            raise ConfigError("config.json: audio_encoder_config is missing")
        self.text_config = _section(TextConfig, text_config)
        self.audio_encoder_config = _section(AudioEncoderConfig, audio_encoder_config)
        if self.audio_encoder_config.llm_dim != self.text_config.hidden_size:
            raise ConfigError(
                f"config.json: llm_dim of the audio encoder ({self.audio_encoder_config.llm_dim}) "
                f"must equal hidden_size of the decoder ({self.text_config.hidden_size})"
            )
        self.tie_word_embeddings = tie_word_embeddings
        self.prompts = dict(prompts) if prompts is not None else None
        self.variant: str | None = kwargs.pop("variant", None)
        modes = kwargs.pop("modes", None)
        self.modes: list[str] | None = None if modes is None else list(modes)
        dialogue = kwargs.pop("dialogue", None) or {}
        self.dialogue: DialogueConfig = (
            DialogueConfig.from_dict(dialogue) if isinstance(dialogue, Mapping) else dialogue
        )
        self.speech = SpeechConfig.of(kwargs.pop("speech", None))
        self.audio_start_token_id = kwargs.pop("audio_start_token_id", PUBLIC_IDS[AUDIO_START])
        self.audio_patch_token_id = kwargs.pop("audio_patch_token_id", PUBLIC_IDS[AUDIO_PATCH])
        if self.audio_start_token_id == PUBLIC_IDS[AUDIO_START] < self.vocab_size:
            self.eos_token_id = sorted(_PUBLIC_STOPS.union(self.text_config.stop_ids))
        self.format_version = kwargs.pop("format_version", FORMAT_VERSION)
        self.weights_sha256 = kwargs.pop("weights_sha256", None)
        derived = [k for k in kwargs if _is_read_only(type(self), k)]
        if derived:
            raise ConfigError(f"config.json: unknown fields {derived} at the top level")
        super().__init__(**kwargs)

    def get_text_config(
        self, decoder: bool | None = None, encoder: bool | None = None
    ) -> StepAudioConfig:
        """Return this object: it answers for the decoder through the properties below."""
        return self

    # ---- what generate(), caches and PEFT ask a text configuration for -----------------------

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self.text_config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.text_config = dataclasses.replace(self.text_config, vocab_size=value)

    @property
    def hidden_size(self) -> int:
        """Decoder width."""
        return self.text_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers."""
        return self.text_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        """Query heads of the decoder."""
        return self.text_config.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads of the decoder."""
        return self.text_config.num_key_value_heads

    @property
    def head_dim(self) -> int:
        """Width of one decoder head."""
        return self.text_config.head_width

    @property
    def max_position_embeddings(self) -> int:
        """Longest context in tokens."""
        return self.text_config.max_position_embeddings

    @property
    def sliding_window(self) -> int | None:
        """Window of the layers that `layer_types` calls sliding."""
        config = self.text_config
        return config.sliding_window if config.use_sliding_window else None

    @property
    def first_code_token_id(self) -> int:
        """Token of audio code 0; every vocabulary has the public distances between its tokens."""
        return self.audio_start_token_id + PUBLIC_IDS["<audio_0>"] - PUBLIC_IDS[AUDIO_START]

    @property
    def layer_types(self) -> list[str]:
        """Kind of attention of every layer, in the words of transformers."""
        windows = self.text_config.layer_windows
        return ["full_attention" if w is None else "sliding_attention" for w in windows]

    @property
    def eos_token_id(self) -> int | list[int]:
        """Tokens that end a generation."""
        ids = self.text_config.eos_token_id
        return list(ids) if isinstance(ids, tuple) else ids

    @eos_token_id.setter
    def eos_token_id(self, value: int | list[int]) -> None:
        ids = tuple(value) if isinstance(value, list) else value
        self.text_config = dataclasses.replace(self.text_config, eos_token_id=ids)

    @property
    def pad_token_id(self) -> int:
        """Padding token."""
        return self.text_config.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int) -> None:
        self.text_config = dataclasses.replace(self.text_config, pad_token_id=value)

    # ---- JSON --------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Write the nested public form; our own fields only where they say something."""
        own: dict[str, tuple[object, object]] = {
            "prompts": (self.prompts, None),
            "variant": (self.variant, None),
            "modes": (self.modes, None),
            "dialogue": (self.dialogue.to_dict(), {}),
            "speech": (self.speech.to_dict(), {}),
            "audio_start_token_id": (self.audio_start_token_id, PUBLIC_IDS[AUDIO_START]),
            "audio_patch_token_id": (self.audio_patch_token_id, PUBLIC_IDS[AUDIO_PATCH]),
            "weights_sha256": (self.weights_sha256, None),
        }
        known = {"text_config", "audio_encoder_config", "dtype", *own}
        values = {
            k: copy.deepcopy(v)
            for k, v in self.__dict__.items()
            if k not in known and not k.startswith("_") and v != getattr(_DEFAULTS, k, None)
        }
        values |= {k: v for k, (v, default) in own.items() if v != default}
        if self.dtype is not None:
            values["torch_dtype"] = _dtype_name(self.dtype)
        text = self.text_config.to_dict()
        values |= {k: text.pop(k) for k in _WINDOW_FIELDS & set(text)}
        return values | {
            "model_type": MODEL_TYPE,
            "tie_word_embeddings": self.tie_word_embeddings,
            "text_config": text,
            "audio_encoder_config": self.audio_encoder_config.to_dict(),
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """Same as `to_dict`: public files name their architecture completely."""
        return self.to_dict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepAudioConfig) and self.to_dict() == other.to_dict()


_DEFAULTS = PreTrainedConfig()
_Kind = TypeVar("_Kind", TextConfig, AudioEncoderConfig)


def _section(kind: type[_Kind], values: _Kind | Mapping[str, Any]) -> _Kind:
    """Build a section from a mapping, without the fields that transformers adds to any of them."""
    if isinstance(values, TextConfig | AudioEncoderConfig):
        if not isinstance(values, kind):
            raise ConfigError(f"expected {kind.__name__}, got {type(values).__name__}")
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"config.json: the section of {kind.__name__} is no object with fields")
    known = {f.name for f in dataclasses.fields(kind)}
    if "torch_dtype" in known and "dtype" in values:
        values = {"torch_dtype": values["dtype"], **values}
    silent = (_HF_FIELDS | _HF4_FIELDS) - known
    return kind.from_dict({k: v for k, v in values.items() if k not in silent})


def _is_read_only(kind: type, name: str) -> bool:
    attribute = getattr(kind, name, None)
    return isinstance(attribute, property) and attribute.fset is None


def _dtype_name(dtype: str | torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
