"""Messages from the dicts of the public client and of the OpenAI API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepaudio.conversation.messages import (
    AudioPart,
    Message,
    Part,
    SpecialPart,
    SpeechPart,
    TextPart,
    TokenPart,
)
from stepaudio.conversation.tools import ToolCall, tool_call_parts, tools_message
from stepaudio.errors import ToolError
from stepaudio.text.vocab import TOOL_CALL, TOOL_CALL_END, TTS_END, TTS_START

_ROLE_ALIASES = {"human": "user", "function_output": "input", "tool": "function_output"}
_ASSISTANT_MARKS = re.compile(f"({TTS_START}|{TTS_END}|{TOOL_CALL}|{TOOL_CALL_END})")
_AUDIO_TYPES = ("audio", "input_audio")
_AUDIO_NAME = re.compile(r"<audio_(\d+)>")


def messages_from_dicts(
    messages: Sequence[Mapping[str, Any]],
    audio: Iterable[Sequence[AudioPart]] = (),
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[Message]:
    """Read messages in the form of the public client or of the OpenAI API.

    Content is a string, None (header only) or a list of items of type ``text``, ``audio`` or
    ``input_audio``, and ``token``. Only in assistant messages do ``<tts_start>``, ``<tts_end>``
    and the tool call marks become special tokens. As on the public server, role ``tool`` becomes
    ``function_output`` with the tool's name, and role ``function_output`` becomes ``input``.

    Args:
        messages: dicts with ``role`` and ``content``, and optionally ``eot``, ``tool_calls``,
            ``tool_call_id``, ``name`` and ``tts_content``.
        audio: for each audio item, in order, its pieces.
        tools: OpenAI function schemas; they are declared behind the system message.

    Raises:
        ValueError: a message is malformed, or audio items and `audio` differ in number.
        ToolError: the arguments of a tool call are no JSON object.
    """
    reader = _DictReader(audio)
    result = [reader.message(message) for message in messages]
    reader.check_audio_is_used()
    if tools:
        behind = 1 if result and result[0].role == "system" else 0
        result.insert(behind, tools_message(tools))
    return result


def num_audio_items(messages: Iterable[Mapping[str, Any]]) -> int:
    """Count the audio items of dict messages: what `messages_from_dicts` wants audio for."""
    contents = (message.get("content") for message in messages)
    return sum(
        item.get("type") in _AUDIO_TYPES
        for content in contents
        if content is not None and not isinstance(content, str)
        for item in content
    )


class _DictReader:
    """Reads dict messages; remembers tool names and which audio comes next."""

    def __init__(self, audio: Iterable[Sequence[AudioPart]]) -> None:
        self._audio = list(audio)
        self._num_audio = 0
        self._tool_names: dict[str, str] = {}

    def message(self, message: Mapping[str, Any]) -> Message:
        name, content = str(_required(message, "role", "message")), message.get("content")
        role: Any = _ROLE_ALIASES.get(name, name)
        parts: list[Part] = []
        if name == "tool":
            tool = message.get("name") or self._tool_names.get(message.get("tool_call_id", ""))
            content = _behind_name(tool or "tool", content)
        if "tts_content" in message:
            parts.append(_speech_part(message["tts_content"]))
        parts += self._content(content, role)
        for call in message.get("tool_calls") or ():
            parts += self._tool_call(call)
        eot = bool(message.get("eot", True)) and bool(parts or content is not None)
        return Message(role, tuple(parts), eot=eot)

    def _content(self, content: Any, role: str) -> list[Part]:
        if content is None:
            return []
        if isinstance(content, str):
            return _text_parts(content, role)
        parts: list[Part] = []
        for item in content:
            kind = item.get("type")
            if kind == "text":
                parts += _text_parts(_required(item, "text", "text item of the content"), role)
            elif kind in _AUDIO_TYPES:
                parts += self._next_audio()
            elif kind == "token":
                parts.append(
                    TokenPart(tuple(_required(item, "token", "token item of the content")))
                )
            else:
                raise ValueError(f"unknown content type {kind!r}; known are text, audio, token")
        return parts

    def _next_audio(self) -> Sequence[AudioPart]:
        self._num_audio += 1
        if self._num_audio > len(self._audio):
            raise ValueError(f"audio is missing: {len(self._audio)} given, more in the messages")
        return self._audio[self._num_audio - 1]

    def check_audio_is_used(self) -> None:
        if self._num_audio != len(self._audio):
            raise ValueError(
                f"{len(self._audio)} audio given, but the messages have {self._num_audio} audio "
                "items"
            )

    def _tool_call(self, call: Mapping[str, Any]) -> tuple[Part, ...]:
        function = call.get("function", call)
        name: str = _required(function, "name", "tool call")
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):  # the OpenAI API sends JSON in a string
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                raise ToolError(f"tool call {name}: {error}") from error
        if not isinstance(arguments, dict):
            raise ToolError(f"tool call {name}: arguments must be an object")
        self._tool_names[call.get("id", "")] = name
        return tool_call_parts(ToolCall(name, arguments))


def _required(values: Mapping[str, Any], name: str, what: str) -> Any:
    try:
        return values[name]
    except KeyError:
        raise ValueError(f"a {what} lacks {name!r}; it has {sorted(values)}") from None


def _behind_name(tool: str, content: Any) -> Any:
    """Tool result with the tool's name on a line before it."""
    if content is None or isinstance(content, str):
        return f"{tool}\n{content or ''}"
    return [{"type": "text", "text": f"{tool}\n"}, *content]


def _text_parts(text: str, role: str) -> list[Part]:
    if role != "assistant":
        return [TextPart(text)]
    split = _ASSISTANT_MARKS.split(text)
    return [
        SpecialPart(piece) if index % 2 else TextPart(piece)
        for index, piece in enumerate(split)
        if piece
    ]


def _speech_part(content: Mapping[str, str]) -> SpeechPart:
    text: str = _required(content, "tts_text", "tts_content")
    audio: str = _required(content, "tts_audio", "tts_content")
    return SpeechPart(text, tuple(int(code) for code in _AUDIO_NAME.findall(audio)))
