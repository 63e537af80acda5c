"""Body of `POST /v1/chat/completions`, and what it means for the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from stepaudio.errors import RequestError
from stepaudio_streaming.audio import decode_base64
from stepaudio_streaming.events import ContextItem, ContextPart, ReplyOptions, Samples
from stepaudio_streaming.protocol.aliases import resolve_voice
from stepaudio_streaming.protocol.session_config import LongText, ShortText, VoiceId
from stepaudio_streaming.protocol.validation import WireModel

MAX_AUDIO_BYTES = 25_000_000
MAX_AUDIO_S = 600.0


class _InputAudio(WireModel):
    data: str
    format: Literal["wav", "mp3"]


class _Part(WireModel):
    type: Literal["text", "input_audio", "refusal", "image_url", "file"]
    text: LongText | None = None
    refusal: LongText | None = None
    input_audio: _InputAudio | None = None
    image_url: Any = None
    file: Any = None


class _Function(WireModel):
    name: ShortText
    arguments: LongText


class _ToolCall(WireModel):
    id: ShortText
    type: Literal["function"]
    function: _Function


class _EarlierAudio(WireModel):
    id: ShortText


class Message(WireModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: LongText | list[_Part] | None = None
    name: ShortText | None = None
    audio: _EarlierAudio | None = None
    refusal: LongText | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: ShortText | None = None


class _FunctionSchema(WireModel):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: LongText | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(WireModel):
    type: Literal["function"]
    function: _FunctionSchema


class _NamedFunction(WireModel):
    name: ShortText


class _ToolChoice(WireModel):
    type: Literal["function"]
    function: _NamedFunction


class AudioParams(WireModel):
    """How an answer is spoken."""

    voice: ShortText | VoiceId
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]


class _StreamOptions(WireModel):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class _TextOnly(WireModel):
    type: Literal["text"]


class ChatBody(WireModel):
    """Body of the request; what would change the answer and is not served is an error."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    modalities: list[Literal["text", "audio"]] | None = None
    audio: AudioParams | None = None
    tools: Annotated[list[_Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _TextOnly | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    # Accepted without effect: they say who asks, and how the answer is kept and paid for.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @field_validator("modalities")
    @classmethod
    def _has_text(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and "text" not in value:
            raise ValueError('use ["text"] or ["text", "audio"]')
        return value

    @property
    def speaks(self) -> bool:
        """The answer is speech."""
        return self.modalities is not None and "audio" in self.modalities


def reply_options(body: ChatBody, voices: Sequence[str]) -> ReplyOptions:
    """How the answer is made.

    Raises:
        RequestError: the request contradicts itself, or there is no such voice.
    """
    if body.speaks and body.audio is None:
        raise _missing("audio")
    if body.speaks and body.stream and body.audio and body.audio.format != "pcm16":
        raise RequestError(
            "A stream has audio.format 'pcm16'.", code="unsupported_value", param="audio.format"
        )
    voice = ""
    if body.speaks and body.audio is not None:
        given = body.audio.voice
        name = given.id if isinstance(given, VoiceId) else given
        voice = resolve_voice(name, voices, param="audio.voice")
    choice = body.tool_choice
    return ReplyOptions(
        modality="audio" if body.speaks else "text",
        instructions="\n\n".join(
            _text(message) for message in body.messages if message.role in ("system", "developer")
        ),
        voice=voice,
        tools=tuple(_schema(tool) for tool in body.tools or ()),
        tool_choice=f"={choice.function.name}"
        if isinstance(choice, _ToolChoice)
        else choice or "auto",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        max_output_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )


def _schema(tool: _Tool) -> dict[str, Any]:
    fields = {
        name: value for name, value in tool.function if value is not None and name != "strict"
    }
    return {"type": "function", "function": fields}


async def context_items(
    messages: Sequence[Message], recall: Callable[[str], str | None]
) -> tuple[ContextItem, ...]:
    """Conversation without its system messages, with the sound decoded.

    Args:
        messages: of the request.
        recall: transcript of an earlier spoken answer by its id.

    Raises:
        AudioLoadError: a recording cannot be read, or is too long.
        RequestError: a message is incomplete or has content that is not served.
    """
    items: list[ContextItem] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role in ("system", "developer"):
            continue
        if message.role == "tool":
            if message.tool_call_id is None:
                raise _missing(f"{where}.tool_call_id")
            items.append(
                ContextItem(
                    item_id=where,
                    kind="function_call_output",
                    parts=(ContextPart(_text(message)),),
                    call_id=message.tool_call_id,
                )
            )
        elif message.role == "user":
            parts = await _user_parts(message, where)
            items.append(ContextItem(item_id=where, kind="user", parts=parts))
        else:
            items += _assistant_items(message, where, recall)
    return tuple(items)


def _assistant_items(
    message: Message, where: str, recall: Callable[[str], str | None]
) -> list[ContextItem]:
    items: list[ContextItem] = []
    text = _text(message)
    if message.audio is not None:
        said = recall(message.audio.id)
        if said is None:
            raise RequestError(
                f"There is no audio '{message.audio.id}' (any more); send its transcript.",
                code="invalid_value",
                param=f"{where}.audio.id",
            )
        text = said
    if text or not message.tool_calls:
        items.append(ContextItem(item_id=where, kind="assistant", parts=(ContextPart(text),)))
    for number, call in enumerate(message.tool_calls or ()):
        items.append(
            ContextItem(
                item_id=f"{where}.tool_calls[{number}]",
                kind="function_call",
                parts=(ContextPart(call.function.arguments),),
                name=call.function.name,
                call_id=call.id,
            )
        )
    return items


async def _user_parts(message: Message, where: str) -> tuple[ContextPart, ...]:
    if message.content is None:
        raise _missing(f"{where}.content")
    if isinstance(message.content, str):
        return (ContextPart(message.content),)
    parts: list[ContextPart] = []
    for index, part in enumerate(message.content):
        place = f"{where}.content[{index}]"
        if part.type == "text":
            parts.append(ContextPart(part.text or ""))
        elif part.type == "input_audio" and part.input_audio is not None:
            data = decode_base64(
                part.input_audio.data, param=f"{place}.input_audio.data", max_bytes=MAX_AUDIO_BYTES
            )
            samples = await asyncio.to_thread(_decode, data, place)
            parts.append(ContextPart(samples=samples))
        else:
            raise RequestError(
                f"Content of type '{part.type}' is not served: this model hears and reads.",
                code="unsupported_content_type",
                param=f"{place}.type",
            )
    return tuple(parts)


def _decode(data: bytes, name: str) -> Samples:
    # Late: brings torch, which a server without this endpoint does not need.
    from stepaudio.audio.io import load_audio

    waveform = load_audio(data, max_duration_s=MAX_AUDIO_S, name=name)
    samples: Samples = waveform.samples.numpy().astype(np.float32, copy=False)
    return samples


def _text(message: Message) -> str:
    """Text of a message, whatever form it has."""
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text or part.refusal or "" for part in message.content)


def _missing(param: str) -> RequestError:
    return RequestError(
        f"Missing required parameter: '{param}'.",
        code="missing_required_parameter",
        param=param,
    )
