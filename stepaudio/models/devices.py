"""Where a model runs."""

from __future__ import annotations

import torch

from stepaudio.errors import ConfigError


def resolve_device(device: str | torch.device) -> torch.device:
    """Device of a name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: use auto, cpu or cuda") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device}: PyTorch finds no CUDA GPU here; use cpu or auto")
    return found
