"""One answer of a model: text, audio codes, thought and tool calls, and how history keeps it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from stepaudio.conversation import (
    Message,
    Mode,
    Part,
    SpecialPart,
    TokenPart,
    ToolCall,
    parse_tool_calls,
)
from stepaudio.errors import ToolError
from stepaudio.generation.completion import Completion, FinishReason
from stepaudio.generation.stats import GenerationStats
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import TOOL_CALL, TOOL_CALL_END, TTS_START

_CALL = re.compile(rf"\s*{TOOL_CALL}.*?(?:{TOOL_CALL_END}|\Z)", re.DOTALL)
_RESPONSE = re.compile(r"<RESPONSE>(.*?)</RESPONSE>", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        mode: kind of answer that was asked for.
        ids: generated tokens without the end token; for speech everything behind ``<tts_start>``,
            pads and ``<tts_end>`` included.
        text: what is said or written, without tool calls.
        text_ids: text tokens of `ids`.
        codes: audio codes to speak, 25 for a second; pads are left out.
        tool_calls: calls of known tools, in order.
        tool_error: what is wrong with a call that could not be read.
        thought: what the Think variant thought before.
        finish_reason: "stop", or "length" where the limit cut it off.
        stats: what it cost.
    """

    mode: Mode
    ids: tuple[int, ...]
    text: str
    text_ids: tuple[int, ...]
    codes: tuple[int, ...]
    finish_reason: FinishReason | None
    stats: GenerationStats
    tool_calls: tuple[ToolCall, ...] = ()
    tool_error: str | None = None
    thought: str | None = None

    @property
    def answer(self) -> str:
        """Final answer between ``<RESPONSE>`` marks, or the whole text."""
        found = _RESPONSE.search(self.text)
        return found.group(1).strip() if found else self.text

    def history_parts(self) -> tuple[Part, ...]:
        """The answer as the next turns see it: the ids themselves, the thought left out."""
        kept: tuple[Part, ...] = (TokenPart(self.ids),)
        return (SpecialPart(TTS_START), *kept) if self.mode == "speech" else kept

    def message(self) -> Message:
        """The answer as a message of the history; speech that the limit cut off is closed."""
        return Message(
            "assistant", self.history_parts(), interrupted=self.finish_reason == "length"
        )


def read_reply(
    completion: Completion,
    tokenizer: TextTokenizer,
    mode: Mode,
    *,
    tools: Collection[str] = (),
    thought: str | None = None,
) -> Reply:
    """Read what was generated.

    Args:
        completion: tokens behind the prompt.
        tokenizer: the model's tokenizer.
        mode: kind of answer that the prompt asked for.
        tools: names of the declared tools; calls of others are dropped. Empty: calls are text.
        thought: what was thought before the answer.
    """
    text_ids, codes = tokenizer.vocab.split_ids(completion.ids)
    written = tokenizer.decode(text_ids)
    calls: list[ToolCall] = []
    error = None
    if tools:
        try:
            calls = [call for call in parse_tool_calls(written) if call.name in tools]
        except ToolError as problem:
            error = str(problem)
        written = _CALL.sub("", written)
    return Reply(
        mode,
        tuple(completion.ids),
        written.strip(),
        tuple(text_ids),
        tuple(codes),
        completion.finish_reason,
        completion.stats,
        tuple(calls),
        error,
        thought,
    )
