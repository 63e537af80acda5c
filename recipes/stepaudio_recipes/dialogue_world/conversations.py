"""Conversations as data, and as messages of the chat template."""

from __future__ import annotations

from dataclasses import dataclass

from stepaudio.conversation import (
    Message,
    ToolCall,
    text_message,
    tool_call_parts,
    tool_names_message,
)


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    Attributes:
        skill: what is asked for; a key of the templates, "noise" or "foreign".
        user: what was heard.
        answer: what is said, behind the tool's result if there is a call.
        call: tool call before the answer.
        result: what the tool gave.
        said: what the user said; differs from `user` where it was misheard.
    """

    skill: str
    user: str
    answer: str
    call: ToolCall | None = None
    result: str | None = None
    said: str = ""

    def messages(self, *, train: bool) -> list[Message]:
        """The turn; `train` makes the assistant's parts count in the loss."""
        messages = [text_message("user", self.user)]
        if self.call is not None and self.result is not None:
            messages.append(Message("assistant", tool_call_parts(self.call), train=train))
            messages.append(text_message("input", self.result))
        return [*messages, text_message("assistant", self.answer, train=train)]


@dataclass(frozen=True)
class Conversation:
    """A persona, the declared tools and the turns."""

    system: str
    tools: tuple[str, ...]
    turns: tuple[Turn, ...]

    def opening(self) -> list[Message]:
        """The messages before the first turn."""
        messages = [text_message("system", self.system)]
        return [*messages, tool_names_message(self.tools)] if self.tools else messages

    def messages(self, *, train: bool = True) -> list[Message]:
        """The whole conversation."""
        turns = (message for turn in self.turns for message in turn.messages(train=train))
        return [*self.opening(), *turns]
