"""Calls are answered until there is an answer, but not forever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepaudio.conversation import ToolCall
from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.reply import Reply
from stepaudio.tasks.tool_loop import answer_calls
from stepaudio.tools import ToolSet, builtin_tools


def reply(text: str, *calls: ToolCall) -> Reply:
    return Reply("text", (), text, (), (), "stop", GenerationStats(), calls)


class Scripted:
    """A dialogue whose further replies are known; remembers the results that it was given."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.results: list[Sequence[str]] = []

    def answer_tools(self, results: Sequence[str], params: Any = None) -> Reply:
        self.results.append(results)
        return self._replies.pop(0)


def run(
    first: Reply, *further: Reply, tools: ToolSet, **options: int
) -> tuple[list[str], Scripted]:
    dialogue = Scripted(*further)
    made: Any = dialogue
    return [r.text for r in answer_calls(made, first, tools, **options)], dialogue


TIMER = ToolCall("timer", {"duration": " five minutes"})


def test_an_answer_without_calls_is_the_last() -> None:
    texts, dialogue = run(reply("hi"), tools=builtin_tools())
    assert (texts, dialogue.results) == ([], [])


def test_results_of_several_rounds() -> None:
    broken = ToolCall("timer", {})
    texts, dialogue = run(
        reply("", TIMER, broken), reply("again", TIMER), reply("done"), tools=builtin_tools()
    )
    assert texts == ["again", "done"]
    assert dialogue.results == [
        ["timer set for 5 minutes", "error: duration is missing"],
        ["timer set for 5 minutes"],
    ]


def test_rounds_are_bounded() -> None:
    calls = [reply(str(n), TIMER) for n in range(5)]
    texts, dialogue = run(calls[0], *calls[1:], tools=builtin_tools(), max_rounds=3)
    assert texts == ["1", "2", "3"]
    assert len(dialogue.results) == 3
