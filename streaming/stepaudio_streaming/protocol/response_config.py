"""What one answer is made of: the session's settings, and what `response.create` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from stepaudio.errors import RequestError
from stepaudio_streaming.audio import WireFormat
from stepaudio_streaming.events import (
    Configure,
    ReplyOptions,
    TranscriptionOptions,
    TurnDetection,
)
from stepaudio_streaming.protocol.aliases import resolve_voice
from stepaudio_streaming.protocol.session_config import (
    AudioFormat,
    FunctionChoice,
    FunctionTool,
    LongText,
    MaxOutputTokens,
    OutputModalities,
    RealtimeConfig,
    Reasoning,
    ServerVad,
    SessionConfig,
    ShortText,
    ToolChoice,
    Transcription,
    VoiceId,
    check_tool_choice,
    one_modality,
    voice_name,
)
from stepaudio_streaming.protocol.validation import WireModel, dump, validated

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class _Output(WireModel):
    format: AudioFormat | None = None
    voice: ShortText | VoiceId | None = None


class _Audio(WireModel):
    output: _Output = _Output()


class _ResponseFields(WireModel):
    """`response` of `response.create`; what is None is as in the session."""

    output_modalities: OutputModalities | None = None
    instructions: LongText | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: MaxOutputTokens | None = None
    metadata: Metadata | None = None
    audio: _Audio | None = None
    conversation: Literal["auto", "none"] | None = None
    input: Annotated[list[dict[str, Any]], Field(max_length=1000)] | None = None
    prompt: None = None
    reasoning: Reasoning | None = None

    @field_validator("output_modalities")
    @classmethod
    def _one_modality(cls, value: list[Any] | None) -> list[Any] | None:
        return None if value is None else one_modality(value)


@dataclass(frozen=True, kw_only=True)
class ResponsePlan:
    """One answer.

    Attributes:
        options: for the engine.
        wire: format of the audio.
        voice: its name as the client said it.
        max_output_tokens: as on the wire.
        in_conversation: the answer becomes part of the conversation.
        input: raw items to answer instead of the conversation; None: the conversation.
        metadata: echoed.
    """

    options: ReplyOptions
    wire: WireFormat
    voice: str
    max_output_tokens: int | str
    in_conversation: bool = True
    input: Sequence[Mapping[str, Any]] | None = None
    metadata: Mapping[str, str] | None = None


def plan_response(config: RealtimeConfig, request: object, voices: Sequence[str]) -> ResponsePlan:
    """Join the session's settings and those of one request.

    Args:
        config: of the session.
        request: `response` of `response.create`; None: nothing is overridden.
        voices: names of the engine's voices.

    Raises:
        RequestError: something is unknown or invalid.
    """
    fields = validated(_ResponseFields, {} if request is None else request, "response")
    output = fields.audio.output if fields.audio is not None else _Output()
    changes = {
        name: value
        for name in (
            "output_modalities", "instructions", "tools", "tool_choice", "parallel_tool_calls",
            "max_output_tokens",
        )
        if (value := getattr(fields, name)) is not None
    }  # fmt: skip
    sound = {name: value for name, value in output if value is not None}
    audio = config.audio.model_copy(update={"output": config.audio.output.model_copy(update=sound)})
    merged = config.model_copy(update={**changes, "audio": audio})
    if fields.tool_choice is not None:
        check_tool_choice(merged.tool_choice, merged.tools, "response.tool_choice")
    return ResponsePlan(
        options=reply_options(merged, voices, param="response.audio.output.voice"),
        wire=audio.output.format.type,
        voice=voice_name(audio.output),
        max_output_tokens=merged.max_output_tokens,
        in_conversation=fields.conversation != "none",
        input=fields.input,
        metadata=fields.metadata,
    )


def reply_options(
    config: RealtimeConfig,
    voices: Sequence[str],
    *,
    param: str = "session.audio.output.voice",
) -> ReplyOptions:
    """Settings of the answers, for the engine.

    Raises:
        RequestError: there is no such voice, or none at all although speech is wanted.
    """
    modality = config.output_modalities[0]
    if modality == "audio" and not voices:
        raise RequestError(
            'This model cannot speak; use output_modalities ["text"].',
            code="invalid_value",
            param="session.output_modalities",
        )
    name = voice_name(config.audio.output)
    choice = config.tool_choice
    limit = config.max_output_tokens
    return ReplyOptions(
        modality=modality,
        instructions=config.instructions,
        voice=(resolve_voice(name, voices, param=param) if name else voices[0]) if voices else "",
        speed=config.audio.output.speed,
        tools=tuple(_chat_tool(tool) for tool in config.tools),
        tool_choice=f"={choice.name}" if isinstance(choice, FunctionChoice) else choice,
        parallel_tool_calls=config.parallel_tool_calls,
        max_output_tokens=limit if isinstance(limit, int) else None,
    )


def _chat_tool(tool: FunctionTool) -> Mapping[str, Any]:
    fields = dump(tool)
    fields.pop("strict", None)
    return {"type": fields.pop("type"), "function": fields}


def engine_settings(config: SessionConfig, voices: Sequence[str]) -> Configure:
    """All settings of a session, for the engine.

    Raises:
        RequestError: see `reply_options`.
    """
    heard = config.audio.input
    speaks = isinstance(config, RealtimeConfig)
    transcription = heard.transcription
    if not speaks and transcription is None:
        transcription = Transcription()  # there is nothing else that such a session could do
    truncation = config.truncation if isinstance(config, RealtimeConfig) else "auto"
    return Configure(
        turn_detection=_turn_detection(config),
        transcription=None if transcription is None else _transcription(transcription),
        noise_reduction=None if heard.noise_reduction is None else heard.noise_reduction.type,
        reply=reply_options(config, voices) if isinstance(config, RealtimeConfig) else _TEXT,
        context=truncation if isinstance(truncation, str) else dump(truncation),
        answers=speaks,
    )


_TEXT = ReplyOptions(modality="text")


def _transcription(config: Transcription) -> TranscriptionOptions:
    languages = config.languages or ([config.language] if config.language else [])
    return TranscriptionOptions(
        languages=tuple(languages),
        prompt=config.prompt or "",
        keywords=tuple(config.keywords or ()),
    )


def _turn_detection(config: SessionConfig) -> TurnDetection | None:
    wanted = config.audio.input.turn_detection
    if wanted is None:
        return None
    interrupt = wanted.interrupt_response and isinstance(config, RealtimeConfig)
    if isinstance(wanted, ServerVad):
        return TurnDetection(
            kind="server_vad",
            threshold=wanted.threshold,
            prefix_padding_ms=wanted.prefix_padding_ms,
            silence_duration_ms=wanted.silence_duration_ms,
            interrupt=interrupt,
        )
    return TurnDetection(kind="semantic_vad", eagerness=wanted.eagerness, interrupt=interrupt)
