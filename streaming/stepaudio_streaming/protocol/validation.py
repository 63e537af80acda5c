"""Validation of what clients send, with errors in the words of the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from stepaudio.errors import RequestError

T = TypeVar("T")


class WireModel(BaseModel):
    """Part of a message: unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def validated(model: type[T] | TypeAdapter[T], data: object, where: str) -> T:
    """Validate a part of a message.

    Args:
        model: its type.
        data: decoded JSON.
        where: path of the part, such as "session".

    Raises:
        RequestError: the first thing that is wrong with it.
    """
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise request_error(found, data, where) from None
    except RecursionError:
        raise RequestError(f"'{where}' is nested too deeply.", code="invalid_value") from None


def request_error(errors: Sequence[Mapping[str, Any]], data: object, where: str) -> RequestError:
    """Say what is wrong in the words of the OpenAI API.

    Args:
        errors: of pydantic.
        data: what was validated.
        where: path of it.
    """
    # Of a union every member complains; the one that came furthest is about what was meant.
    first = max(errors, key=lambda error: len(error["loc"]))
    kind = first["type"]
    param = _path(first["loc"], data, where)
    if kind == "extra_forbidden":
        return RequestError(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)
    if kind in ("missing", "union_tag_not_found"):
        if kind == "union_tag_not_found":
            param += ".type"
        message = f"Missing required parameter: '{param}'."
        return RequestError(message, code="missing_required_parameter", param=param)
    if kind.endswith("_type"):
        message = f"Invalid type for '{param}': {_lower(first['msg'])}."
        return RequestError(message, code="invalid_type", param=param)
    return RequestError(
        f"Invalid value for '{param}': {_lower(first['msg'])}.", code="invalid_value", param=param
    )


def _lower(text: str) -> str:
    text = text.removeprefix("Value error, ").rstrip(".")
    return text[:1].lower() + text[1:]


def _path(location: Sequence[str | int], data: object, where: str) -> str:
    """Path of a field without the names of union members, which pydantic puts between."""
    path, current = where, data
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(current, Mapping) and (step in current or last):
            path += f".{step}"
            current = current.get(str(step))
        elif isinstance(current, list) and isinstance(step, int) and step < len(current):
            path += f"[{step}]"
            current = current[step]
    return path


def dump(model: BaseModel, *, keep_null: frozenset[str] = frozenset()) -> dict[str, Any]:
    """JSON form of a model; fields that are None are left out unless they mean something."""
    return {
        key: _plain(value, keep_null)
        for key, value in model
        if value is not None or key in keep_null
    }


def _plain(value: Any, keep_null: frozenset[str]) -> Any:
    if isinstance(value, BaseModel):
        return dump(value, keep_null=keep_null)
    if isinstance(value, list):
        return [_plain(entry, keep_null) for entry in value]
    return value
