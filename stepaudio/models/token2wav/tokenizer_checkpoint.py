"""Which speech tokenizer of ours a checkpoint has, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stepaudio.errors import ConfigError
from stepaudio.models.checkpoint import read_tensors_of
from stepaudio.models.config_file import read_config
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer, load_s3_tokenizer
from stepaudio.models.token2wav.shared_tokenizer import (
    ENCODER,
    SharedTokenizer,
    SharedTokenizerConfig,
    load_shared_tokenizer,
)

TrainedTokenizer = S3Tokenizer | SharedTokenizer
_S3, _SHARED = "s3", "shared"


def read_tokenizer_config(
    values: Mapping[str, Any], checkpoint: str | Path
) -> S3Config | SharedTokenizerConfig:
    """Read plain values with a field ``kind``: "s3" (also where it is absent) or "shared".

    Args:
        values: as `write_tokenizer_config` made them.
        checkpoint: folder of the model whose encoder a shared tokenizer stands on.

    Raises:
        ConfigError: the kind is unknown, or fields are unknown or contradictory.
        CheckpointError: the checkpoint cannot be read.
    """
    fields = dict(values)
    kind = fields.pop("kind", _S3)
    if kind == _S3:
        return S3Config.from_dict(fields)
    if kind != _SHARED:
        raise ConfigError(f"kind of a tokenizer must be {_S3!r} or {_SHARED!r}, got {kind!r}")
    encoder = read_config(Path(checkpoint)).audio_encoder_config
    return SharedTokenizerConfig.from_dict({**fields, "encoder": encoder})


def write_tokenizer_config(config: S3Config | SharedTokenizerConfig) -> dict[str, Any]:
    """Plain values that `read_tokenizer_config` reads."""
    kind = _SHARED if isinstance(config, SharedTokenizerConfig) else _S3
    return {"kind": kind, **config.to_dict()}


def load_tokenizer(
    path: str | Path, config: S3Config | SharedTokenizerConfig, checkpoint: str | Path
) -> TrainedTokenizer:
    """Load a tokenizer, in evaluation mode; arguments as in `read_tokenizer_config`.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not fit.
    """
    if isinstance(config, S3Config):
        return load_s3_tokenizer(path, config)
    encoder = read_tensors_of(Path(checkpoint), ENCODER)
    return load_shared_tokenizer(path, config, encoder)


def stored_tensors(tokenizer: TrainedTokenizer) -> dict[str, Tensor]:
    """What a tokenizer's file holds: of a shared one, nothing of the encoder."""
    if isinstance(tokenizer, SharedTokenizer):
        return tokenizer.own_tensors()
    return tokenizer.state_dict()
