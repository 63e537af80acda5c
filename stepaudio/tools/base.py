"""The protocol of tools, and sets of them that answer a model's calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stepaudio.conversation import ToolCall
from stepaudio.errors import ToolError

_log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 10.0
# How results of calls that failed begin; models are trained to know it.
ERROR = "error"


@dataclass(frozen=True)
class ToolResult:
    """What a call gave.

    Attributes:
        text: what the model reads; short, it will be spoken.
        failed: the text says what went wrong.
    """

    text: str
    failed: bool = False


class Tool(Protocol):
    """Something that a model can call."""

    @property
    def name(self) -> str:
        """Name in calls."""

    @property
    def description(self) -> str:
        """What it does, for the model."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON schema of the arguments."""

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Do it.

        Raises:
            ToolError: it cannot be done; the message becomes the result.
        """
        ...


class ToolSet:
    """The tools of a conversation.

    Example:
        >>> from stepaudio.conversation import ToolCall
        >>> from stepaudio.tools import TimerTool
        >>> tools = ToolSet([TimerTool()])
        >>> tools.run([ToolCall("timer", {"duration": "five minutes"})])[0].text
        'timer set for 5 minutes'
    """

    def __init__(self, tools: Iterable[Tool], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Collect tools.

        Args:
            tools: each has a name of its own.
            timeout_s: longest wait for one call.

        Raises:
            ToolError: two tools have the same name.
        """
        self._tools: dict[str, Tool] = {}
        self._timeout_s = timeout_s
        for tool in tools:
            if tool.name in self._tools:
                raise ToolError(f"two tools are called {tool.name!r}; rename one of them")
            self._tools[tool.name] = tool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tools."""
        return tuple(self._tools)

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """OpenAI function schemas that declare the tools."""
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in self._tools.values()
        ]

    async def call(self, call: ToolCall) -> ToolResult:
        """Answer one call; whatever goes wrong becomes a result that says so."""
        tool = self._tools.get(call.name)
        if tool is None:
            return _failure(f"there is no tool {call.name}")
        try:
            return await asyncio.wait_for(tool(call.arguments), self._timeout_s)
        except ToolError as error:
            return _failure(str(error))
        except TimeoutError:
            return _failure("no answer")
        except Exception:  # what a plugged-in tool does must not end the conversation
            _log.exception("tool %s failed", call.name)
            return _failure("the tool failed")

    async def call_all(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Answer calls at the same time; results in their order."""
        return list(await asyncio.gather(*map(self.call, calls)))

    def run(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """`call_all` for code outside of an event loop."""
        return asyncio.run(self.call_all(calls))


def text_argument(arguments: Mapping[str, Any], name: str) -> str:
    """A required text among the arguments of a call, without spaces around it.

    Raises:
        ToolError: it is missing, empty or no text.
    """
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ToolError(f"{name} is missing")
    return " ".join(value.split())


def _failure(reason: str) -> ToolResult:
    return ToolResult(f"{ERROR}: {reason}", failed=True)
