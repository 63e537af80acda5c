"""Tools of ``stepaudio chat``: builtin ones that run, or declared ones whose results are given."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudio.errors import ToolError

if TYPE_CHECKING:
    from stepaudio.generation.sampling import SamplingParams
    from stepaudio.tasks.dialogue import Dialogue
    from stepaudio.tasks.reply import Reply
    from stepaudio.tools import TimerTool, ToolSet

BUILTIN = "builtin"
NO_TOOLS = "none"


@dataclass
class ChatTools:
    """The tools of a run of the command.

    Attributes:
        schemas: OpenAI function schemas to declare.
        tools: tools that run; None: results come from the command line.
        timer: the builtin timer.
        results: results that are left from the command line.
    """

    schemas: list[dict[str, Any]] = field(default_factory=list)
    tools: ToolSet | None = None
    timer: TimerTool | None = None
    results: list[str] = field(default_factory=list)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace, declaration: str) -> ChatTools:
        """Read ``--tools`` and ``--tool-result``.

        Args:
            args: arguments of the command.
            declaration: how the checkpoint knows tools, see `DialogueConfig`.

        Raises:
            ToolError: the file is no list of schemas.
        """
        wanted = args.tools or (BUILTIN if declaration == "names" else NO_TOOLS)
        if wanted == NO_TOOLS:
            return cls()
        if wanted == BUILTIN:
            from stepaudio.tools import TimerTool, builtin_tools

            timer = TimerTool()
            tools = builtin_tools(timer=timer)
            return cls(tools.schemas, tools, timer)
        return cls(read_schemas(wanted), results=list(args.tool_result))

    def answers(self, dialogue: Dialogue, reply: Reply, params: SamplingParams) -> Iterator[Reply]:
        """What the model makes of the results of its calls.

        Raises:
            ToolError: fewer results were given than it made calls.
        """
        if self.tools is not None:
            from stepaudio.tasks.tool_loop import answer_calls

            yield from answer_calls(dialogue, reply, self.tools, params)
            return
        while self.results and reply.tool_calls:
            count = len(reply.tool_calls)
            if len(self.results) < count:
                raise ToolError(
                    f"the model made {count} calls, but {len(self.results)} results are left"
                )
            reply = dialogue.answer_tools(self.results[:count], params)
            del self.results[:count]
            yield reply

    def expired_timers(self) -> list[str]:
        """Durations of timers that have run out since the last call."""
        return [] if self.timer is None else [timer.text for timer in self.timer.take_expired()]


def read_schemas(file: str) -> list[dict[str, Any]]:
    """Function schemas of a JSON file.

    Raises:
        ToolError: it cannot be read, or holds something else.
    """
    try:
        schemas = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolError(
            f"{file}: cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    except ValueError as error:
        raise ToolError(f"{file}: no valid JSON: {error}") from error
    if not isinstance(schemas, list) or not all(isinstance(schema, dict) for schema in schemas):
        raise ToolError(f"{file}: expected a JSON list of OpenAI function schemas")
    return schemas
