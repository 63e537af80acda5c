"""Tools: their declaration, calls by the model, and calls found in its output."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepaudio.conversation.messages import Message, Part, SpecialPart, TextPart, text_message
from stepaudio.errors import ToolError
from stepaudio.text.vocab import TOOL_CALL, TOOL_CALL_END


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool by the model.

    Attributes:
        name: the tool.
        arguments: its arguments.
    """

    name: str
    arguments: Mapping[str, Any]


def tools_message(schemas: Sequence[Mapping[str, Any]]) -> Message:
    """Build the message that declares tools, given as OpenAI function schemas."""
    return text_message("tool_json_schemas", json.dumps(list(schemas), ensure_ascii=False))


def tool_names_message(names: Sequence[str]) -> Message:
    """Build the message that declares tools to a model that was trained to know them by name."""
    return text_message("tool_json_schemas", " ".join(names))


def tool_call_parts(call: ToolCall) -> tuple[Part, ...]:
    """Render a tool call as content of an assistant message."""
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    body = TextPart(f"function\n{call.name}\n{arguments}")
    return (SpecialPart(TOOL_CALL), body, SpecialPart(TOOL_CALL_END))


def parse_tool_calls(text: str) -> list[ToolCall]:
    """Find the tool calls in decoded output; text around them is ignored.

    Raises:
        ToolError: a call is incomplete, of an unknown kind, or its arguments are no JSON object.
    """
    calls = []
    position = text.find(TOOL_CALL)
    while position >= 0:
        call, end = _parse_tool_call(text, position + len(TOOL_CALL))
        calls.append(call)
        position = text.find(TOOL_CALL, end)
    return calls


def _parse_tool_call(text: str, start: int) -> tuple[ToolCall, int]:
    head = re.compile(r"\s*(\w+)[ \t]*\n[ \t]*([^\n]+?)[ \t]*\n\s*").match(text, start)
    if head is None or head.group(1) != "function":
        raise ToolError(
            f"malformed tool call at character {start}: expected 'function', the tool's name and "
            "its arguments on lines of their own"
        )
    name = head.group(2)
    try:
        arguments, end = json.JSONDecoder().raw_decode(text, head.end())
    except (ValueError, RecursionError) as error:
        raise ToolError(f"tool call {name}: the arguments are no valid JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ToolError(f"tool call {name}: the arguments must be a JSON object")
    close = re.compile(rf"\s*{TOOL_CALL_END}").match(text, end)
    if close is None:
        raise ToolError(f"tool call {name}: {TOOL_CALL_END} is missing behind the arguments")
    return ToolCall(name, arguments), close.end()
