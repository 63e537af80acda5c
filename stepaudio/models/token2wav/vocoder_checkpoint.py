"""Which vocoder a checkpoint has, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stepaudio.errors import ConfigError
from stepaudio.models.token2wav.hift import load_hift
from stepaudio.models.token2wav.hift_config import HiftConfig
from stepaudio.models.token2wav.hift_stream import Hift
from stepaudio.models.token2wav.istft_vocoder import IstftVocoderConfig, load_istft_vocoder
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.source_filter_vocoder import load_source_filter_vocoder
from stepaudio.models.token2wav.vocoder import Vocoder

VocoderConfig = HiftConfig | IstftVocoderConfig | SourceFilterConfig
_KINDS: dict[str, type[VocoderConfig]] = {
    "hift": HiftConfig,
    "istft": IstftVocoderConfig,
    "source_filter": SourceFilterConfig,
}


def read_vocoder_config(values: Mapping[str, Any]) -> VocoderConfig:
    """Read plain values with a field ``kind``: "hift" (public), "istft" or "source_filter".

    Raises:
        ConfigError: the kind is unknown, or fields are unknown or contradictory.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ConfigError(f"kind of a vocoder must be one of {list(_KINDS)}, got {kind!r}")
    return _KINDS[kind].from_dict(fields)


def write_vocoder_config(config: VocoderConfig) -> dict[str, Any]:
    """Plain values that `read_vocoder_config` reads."""
    kind = next(name for name, section in _KINDS.items() if isinstance(config, section))
    return {"kind": kind, **config.to_dict()}


def load_vocoder(
    path: str | Path, config: VocoderConfig, *, device: torch.device | str = "cpu"
) -> Vocoder[Any]:
    """Load a vocoder for inference.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit.
    """
    if isinstance(config, HiftConfig):
        return Hift(load_hift(path, config).to(device))
    if isinstance(config, SourceFilterConfig):
        return load_source_filter_vocoder(path, config).to(device)
    return load_istft_vocoder(path, config).to(device)
