"""Recipe configuration: YAML is only data for frozen dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stepaudio.errors import ConfigError

ConfigT = TypeVar("ConfigT")


def load_config(cls: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML file into a dataclass.

    Args:
        cls: frozen dataclass; nested dataclasses, tuples of them and optional fields are allowed.
        path: YAML file.
        overrides: ``key.path=value`` strings; values are parsed as YAML. A number in the path is
            an index into a list.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (the nearest known one is named),
            missing or of the wrong type.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings")
    for override in overrides:
        _override(values, override)
    return build(cls, values, where="")


def _override(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override {override!r} must have the form key.path=value")
    *parents, last = path.split(".")
    node: Any = values
    try:
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"override {override!r}: there is no such setting") from error


def build(cls: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build a dataclass from plain values, strictly; `where` is its key path, for messages."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {where}{near[0]}?" if near else f"; known: {sorted(fields)}"
            raise ConfigError(f"{where}{key}: unknown{hint}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}{name}: missing")
    return cls(**{k: _convert(hints[k], v, f"{where}{k}") for k, v in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [a for a in arguments if a is not type(None)]
        return _convert(hint, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: must be one of {list(arguments)}, got {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: must be a mapping, got {value!r}")
        return build(typing.cast(type, hint), value, f"{where}.")
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: must be a list, got {value!r}")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: must have {len(kinds)} entries, got {len(value)}")
        return tuple(
            _convert(kind, item, f"{where}.{i}")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: must be {hint.__name__}, got {value!r}")
    return value
