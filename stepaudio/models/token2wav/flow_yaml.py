"""The public ``flow.yaml``, read as plain data: its tags are never executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.flow_config import (
    FlowConfig,
    FlowEncoderConfig,
    FlowEstimatorConfig,
    SamplerConfig,
)

# Public fields without a meaning for us, in the section where they stand.
_IGNORED = {
    "flow": {"output_type", "input_frame_rate", "only_mask_loss", "pre_lookahead_len"},
    "encoder": {"macaron_style", "use_cnn_module", "cnn_module_kernel", "static_chunk_size"},
    "estimator": {"static_chunk_size"},
}
_MAX_DEPTH = 32


@dataclass(frozen=True)
class _Reference:
    """Value of another field, named by its path from the root of the document."""

    path: str


class _PlainLoader(yaml.SafeLoader):
    """Safe loader that takes ``!new:`` and other tags for the plain value behind them."""


def _plain(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if tag == "ref" and isinstance(node, yaml.ScalarNode):
        return _Reference(str(node.value).strip().removeprefix("<").removesuffix(">"))
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    raise ConfigError(f"unexpected YAML node {node.tag}")


_PlainLoader.add_multi_constructor("!", _plain)


def read_flow_yaml(path: str | Path) -> FlowConfig:
    """Read the configuration of a public checkpoint.

    Raises:
        CheckpointError: the file is missing, or is not YAML.
        ConfigError: sections or fields are missing, unknown or contradictory.
    """
    path = Path(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: download the token2wav folder again") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        return public_flow_config(_resolve(document, document))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def public_flow_config(document: Any) -> FlowConfig:
    """Configuration from the content of a ``flow.yaml``: sections nested in plain values.

    Raises:
        ConfigError: sections or fields are missing, unknown or contradictory.
    """
    flow = _section(document, "flow")
    encoder = _section(flow, "encoder")
    decoder = _section(flow, "decoder")
    estimator = _section(decoder, "estimator")
    unknown = set(decoder) - {"estimator", "inference_cfg_rate"}
    if unknown:
        raise ConfigError(f"decoder: unknown fields {sorted(unknown)}")
    own = {k: v for k, v in flow.items() if k not in ("encoder", "decoder")}
    return FlowConfig.from_dict(
        _known("flow", own)
        | {
            "encoder": FlowEncoderConfig.from_dict(_known("encoder", encoder)).to_dict(),
            "estimator": FlowEstimatorConfig.from_dict(_known("estimator", estimator)).to_dict(),
            "sampler": SamplerConfig(
                cfg_rate=float(decoder.get("inference_cfg_rate", SamplerConfig.cfg_rate))
            ).to_dict(),
        }
    )


def _resolve(value: Any, root: Any, depth: int = 0) -> Any:
    """Replace references by what they name."""
    if depth > _MAX_DEPTH:
        raise ConfigError("references form a circle")
    if isinstance(value, _Reference):
        target = root
        for key in value.path.split("."):
            if not isinstance(target, dict) or key not in target:
                raise ConfigError(f"refers to <{value.path}>, which is not there")
            target = target[key]
        return _resolve(target, root, depth + 1)
    if isinstance(value, dict):
        return {key: _resolve(item, root, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, root, depth + 1) for item in value]
    return value


def _section(parent: Any, name: str) -> dict[str, Any]:
    section = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(section, dict):
        raise ConfigError(f"has no section {name!r}")
    return section


def _known(section: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _IGNORED[section]}
