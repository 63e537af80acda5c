"""Low-rank adapters of the decoder (LoRA, arXiv 2106.09685), in the file layout of PEFT.

An adapter turns one foundation into another mode for a few percent of its weights. For inference
it is merged into a copy of the decoder layers, which `Generator` takes beside the model itself;
rows of one batch may use different ones. ``peft`` reads the files too.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.backbone import Backbone
from stepaudio.models.config import ConfigSection
from stepaudio.models.token2wav.loading import read_tensors

ADAPTER_FOLDER = "adapters"
_CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True)
class LoraConfig(ConfigSection):
    """Shape of an adapter.

    Attributes:
        rank: rank of every update.
        alpha: updates are scaled by ``alpha / rank``.
        targets: names of the linear layers that are adapted, in every decoder layer.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not self.targets:
            raise ConfigError("an adapter needs a positive rank and alpha, and targets")

    @property
    def scale(self) -> float:
        """Factor of every update."""
        return self.alpha / self.rank


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained update of low rank.

    Attributes:
        base: the layer, which keeps its weights.
        lora_A: projection down.
        lora_B: projection up, zero at first.
    """

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = config.scale
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Linear(base.in_features, config.rank, bias=False, **like)
        self.lora_B = nn.Linear(config.rank, base.out_features, bias=False, **like)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        out: Tensor = self.base(x)
        return out + self.scale * F.linear(self.lora_A(x), self.lora_B.weight)


@dataclass(frozen=True)
class Adapter:
    """Weights of an adapter.

    Attributes:
        config: its shape.
        tensors: by parameter name inside the backbone, ``layers.0.self_attn.q_proj.lora_A.weight``.
    """

    config: LoraConfig
    tensors: Mapping[str, Tensor]


def inject_lora(backbone: Backbone, config: LoraConfig) -> list[LoraLinear]:
    """Wrap the target layers in place and freeze all else; returns the wrapped layers.

    Raises:
        ConfigError: the backbone has no layer of a target's name.
    """
    backbone.requires_grad_(False)
    wrapped = []
    for path in list(_target_paths(backbone, config)):
        parent, _, name = path.rpartition(".")
        module = LoraLinear(backbone.get_submodule(path), config)  # type: ignore[arg-type]
        setattr(backbone.get_submodule(parent), name, module)
        wrapped.append(module)
    return wrapped


def _target_paths(backbone: Backbone, config: LoraConfig) -> Iterator[str]:
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    absent = set(config.targets) - {name.rpartition(".")[2] for name in linear}
    if absent:
        raise ConfigError(f"adapter: the decoder has no layers {sorted(absent)}")
    return (name for name in linear if name.rpartition(".")[2] in config.targets)


def adapter_of(backbone: Backbone, config: LoraConfig) -> Adapter:
    """Weights of a backbone whose layers `inject_lora` has wrapped."""
    tensors = {
        name: parameter.detach()
        for name, parameter in backbone.named_parameters()
        if name.endswith((_DOWN, _UP))
    }
    return Adapter(config, tensors)


def merged_backbone(backbone: Backbone, adapter: Adapter) -> Backbone:
    """Copy of a plain backbone with an adapter's updates added to its weights.

    The embedding table is shared with the original.

    Raises:
        CheckpointError: the adapter belongs to another model.
    """
    memo = {id(backbone.embed_tokens): backbone.embed_tokens}
    merged = copy.deepcopy(backbone, memo)
    layers = dict(merged.named_modules())
    with torch.no_grad():
        for name, down in adapter.tensors.items():
            if not name.endswith(_DOWN):
                continue
            path = name.removesuffix(_DOWN)
            up, layer = adapter.tensors.get(path + _UP), layers.get(path)
            if up is None or not isinstance(layer, nn.Linear):
                raise CheckpointError(f"adapter: {path} is incomplete or not in this model")
            update = up.to(layer.weight) @ down.to(layer.weight)
            if update.shape != layer.weight.shape:
                raise CheckpointError(
                    f"adapter: {path} has shape {list(update.shape)}, "
                    f"the model {list(layer.weight.shape)}"
                )
            layer.weight.add_(update, alpha=adapter.config.scale)
    return merged


def truncated(adapter: Adapter, rank: int) -> Adapter:
    """The nearest adapter of a lower rank: the largest singular values of every update are kept.

    Raises:
        ConfigError: the rank is not below that of the adapter.
    """
    config = adapter.config
    if not 0 < rank <= config.rank:
        raise ConfigError(f"an adapter of rank {config.rank} cannot be cut to rank {rank}")
    tensors: dict[str, Tensor] = {}
    for name, down in adapter.tensors.items():
        if not name.endswith(_DOWN):
            continue
        path = name.removesuffix(_DOWN)
        update = adapter.tensors[path + _UP].double() @ down.double()
        left, values, right = torch.linalg.svd(update, full_matrices=False)
        root = values[:rank].sqrt()
        tensors[path + _DOWN] = (root[:, None] * right[:rank]).to(down.dtype)
        tensors[path + _UP] = (left[:, :rank] * root).to(down.dtype)
    return Adapter(dataclasses.replace(config, rank=rank, alpha=config.scale * rank), tensors)


def save_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write an adapter in half precision; the folder is made if needed.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = adapter.config
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(config.targets),
    }
    tensors = {_PREFIX + n: t.half().cpu().contiguous() for n, t in adapter.tensors.items()}
    write_bytes_atomic(folder / _WEIGHTS_FILE, safetensors.torch.save(tensors, {"format": "pt"}))
    write_text_atomic(folder / _CONFIG_FILE, json.dumps(values, indent=2) + "\n")


def load_adapter(folder: str | Path) -> Adapter:
    """Read an adapter, ours or one that ``peft`` has written for the decoder's linear layers.

    Raises:
        CheckpointError: a file is missing, damaged, or describes another kind of adapter.
    """
    folder = Path(folder)
    path = folder / _CONFIG_FILE
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        config = LoraConfig(
            rank=values["r"],
            alpha=float(values["lora_alpha"]),
            targets=tuple(values["target_modules"]),
        )
        kind, bias = values.get("peft_type"), values.get("bias", "none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; copy it again") from error
    if kind != "LORA" or bias != "none":
        raise CheckpointError(f"{path}: only LORA adapters without biases can be loaded")
    tensors = read_tensors(folder / _WEIGHTS_FILE)
    strange = [n for n in tensors if not n.startswith(_PREFIX) or not n.endswith((_DOWN, _UP))]
    if strange or not tensors:
        raise CheckpointError(f"{folder / _WEIGHTS_FILE}: unexpected tensors {strange[:3]}")
    return Adapter(config, {name.removeprefix(_PREFIX): t for name, t in tensors.items()})
