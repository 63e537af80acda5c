"""The JSON files of a checkpoint's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.hf_config import FORMAT_VERSION, StepAudioConfig

CONFIG_FILE = "config.json"


def read_config(folder: Path) -> StepAudioConfig:
    """Read ``config.json`` of a folder.

    Raises:
        CheckpointError: the file is missing or damaged, or newer than this program.
        ConfigError: it is incomplete or contradictory.
    """
    path = folder / CONFIG_FILE
    values = read_json_object(path)
    try:
        config = StepAudioConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if config.format_version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written in format {config.format_version}, but this version of stepaudio "
            f"reads formats up to {FORMAT_VERSION}: install a newer one"
        )
    return config


def read_json_object(path: Path) -> dict[str, Any]:
    """Read an object of any fields.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: a checkpoint is a folder with {CONFIG_FILE}, model.safetensors "
            "(or shards and model.safetensors.index.json) and the tokenizer's files"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: damaged: {error}; download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object with fields; download it again")
    return values
