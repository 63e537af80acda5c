"""What all minds share about tools and tool results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stepaudio.conversation import Message, ToolCall, text_message, tool_call_parts
from stepaudio.generation.constraint import OneOf
from stepaudio.tasks.reply import Reply
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import TOOL_CALL
from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.engine.parts import Answer, Call
from stepaudio_streaming.events import ReplyOptions


def offered(options: ReplyOptions) -> list[dict[str, Any]]:
    """Functions that may be called."""
    choice = options.tool_choice
    if choice == "none":
        return []
    tools = [dict(tool) for tool in options.tools]
    if choice.startswith("="):
        return [tool for tool in tools if name_of(tool) == choice[1:]]
    return tools


def name_of(tool: Mapping[str, Any]) -> str:
    """Name of a function."""
    return str(tool["function"]["name"])


def must_call(options: ReplyOptions) -> bool:
    """Whether the answer has to be a call."""
    choice = options.tool_choice
    return (choice == "required" or choice.startswith("=")) and bool(offered(options))


def call_of(names: Iterable[str], tokenizer: TextTokenizer) -> OneOf:
    """Answers that call one of some functions."""
    vocab = tokenizer.vocab
    mark = tokenizer.encode(TOOL_CALL) if vocab.tool_call is None else [vocab.tool_call]
    beginnings = tuple((*mark, *tokenizer.encode(f"function\n{name}\n")) for name in names)
    return OneOf(beginnings, vocab.text_size)


def calls_of(reply: Reply) -> tuple[Call, ...]:
    """The calls of an answer."""
    return tuple(
        Call(call.name, json.dumps(dict(call.arguments), ensure_ascii=False))
        for call in reply.tool_calls
    )


def forced_answer(reply: Reply, written: str, tools: Sequence[Mapping[str, Any]]) -> Answer:
    """What an answer that had to be a call means, readable or not.

    Args:
        reply: what could be read.
        written: everything that was written, calls included.
        tools: functions that could be called.
    """
    if reply.tool_calls:
        return Answer("", calls_of(reply))
    lines = written.partition(TOOL_CALL)[2].split("\n")
    name = lines[1].strip() if len(lines) > 1 else ""
    for tool in tools:
        if name_of(tool) == name and not (tool["function"].get("parameters") or {}).get("required"):
            return Answer("", (Call(name, "{}"),))
    return Answer("", error=f"The model could not write the arguments of '{name}'.")


def call_message(entry: Entry) -> Message:
    """A call that the client has put into the conversation."""
    arguments = json.loads(entry.content or "{}")
    return Message("assistant", tool_call_parts(ToolCall(entry.name, arguments)))


def with_results(
    entries: Sequence[Entry],
    message_of: Callable[[Entry], list[Message]],
    *,
    result_of: Callable[[Entry], str],
    summary: str,
) -> list[tuple[int, Message]]:
    """Messages of a conversation, results that follow each other as one.

    Args:
        entries: of the conversation.
        message_of: messages of any other entry; at most one.
        result_of: text of a result.
        summary: what is asked behind results.

    Returns:
        Every message with the number of its (first) entry.
    """
    messages: list[tuple[int, Message]] = []
    results: list[str] = []
    first = 0
    for index, entry in enumerate(entries):
        if entry.kind == "function_call_output":
            first = first if results else index
            results.append(result_of(entry))
            continue
        if results:
            messages.append((first, text_message("input", "\n".join(results) + summary)))
            results = []
        messages += [(index, message) for message in message_of(entry)]
    if results:
        messages.append((first, text_message("input", "\n".join(results) + summary)))
    return messages
