"""The file of the prediction blocks, an add-on that any checkpoint can have beside it.

``mtp.safetensors`` holds the blocks' tensors, and their configuration as JSON in its header. It is
never part of the checkpoint: that one's files, index and hash stay as they are.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stepaudio.atomic import write_bytes_atomic
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.models.strict import tensor_mismatches

PREDICTOR_FILE = "mtp.safetensors"
_HEADER = "multi_token_predictor"


def save_predictor(
    predictor: MultiTokenPredictor, folder: str | Path, *, dtype: torch.dtype | None = None
) -> Path:
    """Write the file into a folder, atomically; returns its path.

    Args:
        predictor: the blocks.
        folder: where to; made if needed.
        dtype: storage type of the weights; None: as they are.

    Raises:
        CheckpointError: a weight exceeds the range of `dtype`.
        OutputError: the file cannot be written.
    """
    path = Path(folder) / PREDICTOR_FILE
    tensors: dict[str, Tensor] = {}
    for name, tensor in predictor.state_dict().items():
        kept = tensor.detach().cpu()
        stored = kept.to(dtype) if kept.is_floating_point() else kept.to(torch.int32)
        if bool(stored.isinf().any()) and not bool(kept.isinf().any()):
            raise CheckpointError(f"{path}: {name} exceeds the range of {dtype}")
        tensors[name] = stored.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"format": "pt", _HEADER: json.dumps(dataclasses.asdict(predictor.config))}
    write_bytes_atomic(path, save(tensors, header))
    return path


def find_predictor(source: str | Path) -> Path | None:
    """Path of the file itself, or in a folder; None where there is none."""
    path = Path(source)
    path = path / PREDICTOR_FILE if path.is_dir() else path
    return path if path.is_file() else None


def load_predictor(source: str | Path, model: StepAudio2ForCausalLM) -> MultiTokenPredictor:
    """Read the blocks of a model, with its weights' type and device, in evaluation mode.

    Args:
        source: the file, or a folder that holds it.
        model: the model that the blocks belong to.

    Raises:
        CheckpointError: the file is missing or damaged, or belongs to a model of another shape.
    """
    path = find_predictor(source)
    if path is None:
        raise CheckpointError(
            f"{source}: no {PREDICTOR_FILE} there: train prediction blocks with "
            "`stepaudio-train run mtp`, or decode without them"
        )
    try:
        with safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        config = PredictorConfig(**values)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy it again") from error
    draft_ids = tensors.pop("draft_ids", None)
    vocab_size = model.config.vocab_size
    if draft_ids is not None:
        draft_ids = draft_ids.long()
        if draft_ids.dim() != 1 or not bool(((draft_ids >= 0) & (draft_ids < vocab_size)).all()):
            raise CheckpointError(f"{path}: proposes tokens outside of the model's vocabulary")
    try:
        with torch.device("meta"):
            predictor = MultiTokenPredictor(config, model.config.text_config, draft_ids)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    wanted = {name: list(p.shape) for name, p in predictor.named_parameters()}
    mismatches = tensor_mismatches(wanted, {name: list(t.shape) for name, t in tensors.items()})
    if mismatches:
        raise CheckpointError(f"{path}: blocks of another model. {mismatches}")
    predictor.load_state_dict(tensors, strict=False, assign=True)
    weight = model.lm_head.weight
    return predictor.to(weight.device, weight.dtype).eval()
