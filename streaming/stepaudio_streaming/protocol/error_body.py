"""Error bodies in the form of the OpenAI API."""

from __future__ import annotations

from typing import Any


def error_body(
    message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Body of an error response, or data of an error in a stream."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
