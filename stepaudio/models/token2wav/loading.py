"""Weight files of the token2wav components: safe reading and strict loading."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stepaudio.errors import CheckpointError
from stepaudio.models.strict import tensor_mismatches


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a ``.safetensors`` file, or of a PyTorch file without running code.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: this file of weights is missing")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: damaged or not a file of weights ({reason}); download it again"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise CheckpointError(f"{path}: must hold named tensors and nothing else")
    return {str(name): tensor for name, tensor in values.items()}


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
) -> None:
    """Put tensors into a module, which may be on the meta device.

    Args:
        module: its parameters are replaced by the tensors.
        tensors: one tensor for every entry of the module's state dict, by name.
        source: file that errors name.
        dtype: type of floating-point tensors; None: as they are stored.

    Raises:
        CheckpointError: tensors are missing, surplus or of another shape; all are listed.
    """
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    stored = {name: tensor.shape for name, tensor in tensors.items()}
    mismatches = tensor_mismatches(wanted, stored)
    if mismatches:
        raise CheckpointError(f"{source}: the tensors do not fit the configuration. {mismatches}")
    converted = {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    module.load_state_dict(converted, assign=True)
