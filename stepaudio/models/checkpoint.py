"""Checkpoints: strict, streamed loading and atomic saving of the public layout.

A folder holds ``config.json`` and ``model.safetensors``, or shards of it listed by
``model.safetensors.index.json`` (specification, section 5). Unlike transformers, loading fails if
any tensor is missing, surplus or of another shape. Shards need no metadata.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GenerationConfig

from stepaudio.catalog import embedded_folder
from stepaudio.errors import CheckpointError
from stepaudio.models.config_file import CONFIG_FILE, read_config, read_json_object
from stepaudio.models.devices import resolve_device
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.hub import checkpoint_folder
from stepaudio.models.processor import StepAudioProcessor
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.models.strict import tensor_mismatches
from stepaudio.text.tokenizer import TextTokenizer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
GENERATION_FILE = "generation_config.json"
DEFAULT_SHARD_BYTES = 15 << 20
_MAPPED_BYTES = 32 << 20


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    config: StepAudioConfig | None = None,
    verify_hash: bool = False,
    progress: bool = False,
) -> StepAudio2ForCausalLM:
    """Load a model in evaluation mode.

    Tensors are read shard by shard, so that memory never holds much more than the weights.

    Args:
        source: folder, or id of a Hub repository.
        dtype: type of the weights; None: float32 on CPU, elsewhere as they are stored.
        device: where to load to.
        revision: branch, tag or commit of the repository.
        config: use this instead of the folder's ``config.json``.
        verify_hash: also compare the weights with the hash in the configuration.
        progress: show a progress bar on standard error.

    Raises:
        CheckpointError: files are missing or damaged, tensors do not fit the configuration, or
            the hash differs.
        ConfigError: ``config.json`` is incomplete or contradictory.
    """
    folder = checkpoint_folder(source, revision=revision)
    config = read_config(folder) if config is None else config
    stored = _stored_tensors(folder)
    with torch.device("meta"):
        model = StepAudio2ForCausalLM(config)
    _check_names_and_shapes(folder, model, {name: shape for name, (_, shape) in stored.items()})
    if (folder / GENERATION_FILE).is_file():
        generation = GenerationConfig.from_dict(read_json_object(folder / GENERATION_FILE))
        if generation.eos_token_id is None:
            generation.eos_token_id = list(config.text_config.stop_ids)
        model.generation_config = generation
    device = torch.device(device)
    if dtype is None and device.type == "cpu":
        dtype = torch.float32
    shards = sorted({path for path, _ in stored.values()})
    digests = {}
    with tqdm(total=len(stored), desc=folder.name, unit="tensor", disable=not progress) as bar:
        for name, tensor in _read_shards(shards):
            if verify_hash:
                digests[name] = _digest(tensor)
            loaded = tensor.to(device, dtype, copy=True)
            _set_parameter(model, name, loaded)
            bar.update()
    if verify_hash:
        _check_hash(folder, config, digests)
    model.tie_weights()
    config.dtype = model.lm_head.weight.dtype
    config.name_or_path = str(source)
    return model.eval()


def read_tensors_of(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Read the stored tensors of one part of a model, as they are stored.

    Args:
        folder: of the checkpoint.
        prefix: what their names begin with, such as "encoder.".

    Raises:
        CheckpointError: files are missing or damaged, or the model has no such part.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        with _open_shard(path) as shard:
            names = [name for name in shard.keys() if name.startswith(prefix)]
            tensors |= {name: shard.get_tensor(name) for name in names}
    if not tensors:
        raise CheckpointError(f"{folder}: has no tensors {prefix}*; download it again")
    return tensors


def load_pretrained(
    source: str | Path, *, device: torch.device | str = "auto", dtype: torch.dtype | None = None
) -> tuple[StepAudio2ForCausalLM, TextTokenizer]:
    """Load a model and its tokenizer; the small files are checked before the weights are read.

    Args:
        source: name of an embedded model such as "nano", folder, or id of a Hub repository.
        device: where to load to; "auto": a GPU where there is one.
        dtype: as in `load_model`.

    Raises:
        CheckpointError: files are missing or damaged, or do not fit each other.
        ConfigError: configuration or tokenizer are contradictory, or there is no such device.
    """
    folder = pretrained_folder(source)
    tokenizer = StepAudioProcessor.from_pretrained(folder).tokenizer
    return load_model(folder, device=resolve_device(device), dtype=dtype), tokenizer


def pretrained_folder(source: str | Path) -> Path:
    """Folder of an embedded model by its name, of a folder, or of a Hub repository by its id.

    Raises:
        CheckpointError: there is none.
    """
    return embedded_folder(str(source)) or checkpoint_folder(source)


def save_checkpoint(
    model: StepAudio2ForCausalLM,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights and configuration in the public layout; other files of the folder stay.

    The new folder takes the old one's place only when it is complete.

    Args:
        model: model to save. Merge adapters before.
        folder: where to; made if needed.
        dtype: storage type; None: as the weights are.
        max_shard_bytes: largest shard. A larger tensor has a shard of its own.
        state: the weights, where they are not in the model (distributed training).

    Raises:
        CheckpointError: the weights have unmerged adapters or do not fit `dtype`, or the folder
            cannot be written.
    """
    folder = Path(folder)
    tied = model.all_tied_weights_keys
    tensors = {k: v for k, v in (state or model.state_dict()).items() if k not in tied}
    foreign = [name for name in tensors if "lora_" in name or ".base_layer." in name]
    if foreign:
        raise CheckpointError(f"{folder}: merge the adapters before saving, found {foreign[0]}")
    try:
        with _replacing(folder) as staging:
            digest = _write_shards(tensors, staging, dtype, max_shard_bytes)
            config = copy.deepcopy(model.config)
            config.architectures = [type(model).__name__]
            config.dtype = dtype or model.lm_head.weight.dtype
            config.weights_sha256 = digest
            config.to_json_file(staging / CONFIG_FILE)
            model.generation_config.save_pretrained(staging)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot save the checkpoint: {error}") from error


def weights_hash(digests: Mapping[str, str]) -> str:
    """Hash of all weights from the hash of each; the order and the shards do not matter."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


# ---- loading -----------------------------------------------------------------------------------


def _stored_tensors(folder: Path) -> dict[str, tuple[Path, list[int]]]:
    """Shard and shape of every stored tensor, from the headers alone."""
    stored = {}
    for path in weight_files(folder):
        with _open_shard(path) as shard:
            for name in shard.keys():
                stored[name] = (path, list(shard.get_slice(name).get_shape()))
    return stored


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights.

    Raises:
        CheckpointError: one is missing.
    """
    if (folder / INDEX_FILE).is_file():
        weight_map = read_json_object(folder / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{folder / INDEX_FILE}: has no weight_map; download it again")
        paths = [folder / str(name) for name in sorted(set(weight_map.values()))]
    else:
        paths = [folder / WEIGHTS_FILE]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise CheckpointError(f"{folder}: weights are missing: {', '.join(absent)}")
    return paths


@contextmanager
def _open_shard(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt", device="cpu") as shard:
            yield shard
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: damaged or incomplete ({error}); download it again"
        ) from error


def _read_shards(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Read tensor by tensor; every now and then a shard is opened anew.

    Pages of a mapped file count as memory of the process until it is closed.
    """
    for path in paths:
        with _open_shard(path) as shard:
            names = deque(shard.keys())
        while names:
            num_read = 0
            with _open_shard(path) as shard:
                while names and num_read < _MAPPED_BYTES:
                    name = names.popleft()
                    tensor = shard.get_tensor(name)
                    num_read += tensor.nbytes
                    yield name, tensor


def _check_names_and_shapes(
    folder: Path, model: StepAudio2ForCausalLM, stored: Mapping[str, list[int]]
) -> None:
    tied = model.all_tied_weights_keys
    wanted = {k: list(v.shape) for k, v in model.state_dict().items() if k not in tied}
    mismatches = tensor_mismatches(wanted, stored)
    if mismatches:
        raise CheckpointError(f"{folder}: the tensors do not fit {CONFIG_FILE}. {mismatches}")


def _set_parameter(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, leaf, nn.Parameter(tensor))


def _digest(tensor: Tensor) -> str:
    header = f"{tensor.dtype} {list(tensor.shape)} ".encode()
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(header + data.tobytes()).hexdigest()


def _check_hash(folder: Path, config: StepAudioConfig, digests: Mapping[str, str]) -> None:
    if config.weights_sha256 is None:
        raise CheckpointError(f"{folder / CONFIG_FILE}: has no weights_sha256 to verify against")
    found = weights_hash(digests)
    if found != config.weights_sha256:
        raise CheckpointError(
            f"{folder}: the weights have hash {found}, but {CONFIG_FILE} says "
            f"{config.weights_sha256}: they were changed or damaged; download them again"
        )


# ---- saving ------------------------------------------------------------------------------------


def _write_shards(
    tensors: Mapping[str, Tensor], folder: Path, dtype: torch.dtype | None, max_bytes: int
) -> str:
    """Write the shards and their index; return the hash of the weights."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * (dtype or tensor.dtype).itemsize
        if groups[-1] and filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    digests: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(groups, start=1):
        file = WEIGHTS_FILE
        if len(groups) > 1:
            file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        shard = {name: _stored_form(name, tensors[name], dtype) for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors lets only the owner read
        digests |= {name: _digest(tensor) for name, tensor in shard.items()}
        weight_map |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")
    return weights_hash(digests)


def _stored_form(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    stored = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    if bool(stored.isinf().any()) and not bool(tensor.isinf().any()):
        raise CheckpointError(f"{name}: its values exceed the range of {dtype}")
    return stored


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Give a folder to write into that takes the place of `folder` in the end."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    staging.mkdir()
    try:
        if folder.is_dir():
            _keep_other_files(folder, staging)
        yield staging
        if not folder.is_dir():
            staging.rename(folder)
            return
        old = staging.with_name(staging.name + ".old")
        folder.rename(old)
        try:
            staging.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _keep_other_files(folder: Path, staging: Path) -> None:
    written = {CONFIG_FILE, INDEX_FILE, GENERATION_FILE}
    for item in folder.iterdir():
        if item.name in written or item.match("model*.safetensors"):
            continue
        if item.is_dir():
            shutil.copytree(item, staging / item.name, copy_function=_link_or_copy)
        else:
            _link_or_copy(item, staging / item.name)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no hard links
        shutil.copy2(source, target)
