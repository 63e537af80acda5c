"""Answering the calls of a model until it has an answer for the user."""

from __future__ import annotations

from collections.abc import Iterator

from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.dialogue import Dialogue
from stepaudio.tasks.reply import Reply
from stepaudio.tools import ToolSet

DEFAULT_MAX_ROUNDS = 4


def answer_calls(
    dialogue: Dialogue,
    reply: Reply,
    tools: ToolSet,
    params: SamplingParams | None = None,
    *,
    max_rounds: int = DEFAULT_MAX_ROUNDS,
) -> Iterator[Reply]:
    """Run the tools that a reply calls and give the model their results, as often as it calls.

    Args:
        dialogue: where the reply was given.
        reply: the latest one.
        tools: those that were declared in the dialogue.
        params: sampling of the further replies.
        max_rounds: rounds of calls that are answered. Calls of the reply behind them stay open,
            so that a model that does not stop calling ends nevertheless.

    Yields:
        The further replies; none if nothing is called.

    Raises:
        CapacityError: the conversation no longer fits the context.
    """
    for _ in range(max_rounds):
        if not reply.tool_calls:
            return
        results = tools.run(reply.tool_calls)
        reply = dialogue.answer_tools([result.text for result in results], params)
        yield reply
