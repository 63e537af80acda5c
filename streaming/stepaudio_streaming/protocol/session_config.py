"""Configuration of a session: the session object of the protocol, its defaults and its updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from stepaudio.errors import RequestError
from stepaudio_streaming.events import Modality
from stepaudio_streaming.protocol.aliases import check_model, resolve_voice
from stepaudio_streaming.protocol.validation import WireModel, dump, validated

MAX_OUTPUT_TOKENS = 4096
Include = Literal["item.input_audio_transcription.logprobs"]
ShortText = Annotated[str, Field(max_length=256)]
LongText = Annotated[str, Field(max_length=100_000)]


class PcmFormat(WireModel):
    """16-bit little-endian mono; no other rate than 24 kHz."""

    type: Literal["audio/pcm"]
    rate: Literal[24000] = 24000


class PcmuFormat(WireModel):
    """G.711 µ-law, 8 kHz."""

    type: Literal["audio/pcmu"]


class PcmaFormat(WireModel):
    """G.711 A-law, 8 kHz."""

    type: Literal["audio/pcma"]


AudioFormat = Annotated[PcmFormat | PcmuFormat | PcmaFormat, Field(discriminator="type")]
PCM = PcmFormat(type="audio/pcm")


class Transcription(WireModel):
    """How the user's speech is written down."""

    model: ShortText | None = None
    language: ShortText | None = None
    languages: list[ShortText] | None = None
    prompt: LongText | None = None
    keywords: list[ShortText] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class NoiseReduction(WireModel):
    """Where the microphone is."""

    type: Literal["near_field", "far_field"]
    strength: Annotated[float, Field(ge=0, le=1)] | None = None


class ServerVad(WireModel):
    """A silence ends the turn."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] = 500
    idle_timeout_ms: Annotated[int, Field(ge=100, le=600_000)] | None = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(WireModel):
    """The turn ends when the user seems to have finished."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetectionConfig = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]


class AudioInput(WireModel):
    """What the client sends."""

    format: AudioFormat = PCM
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetectionConfig | None = ServerVad(type="server_vad")


class VoiceId(WireModel):
    """A voice by its id."""

    id: ShortText


class AudioOutput(WireModel):
    """What the client gets."""

    format: AudioFormat = PCM
    voice: ShortText | VoiceId | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)] = 1.0


class Audio(WireModel):
    """Audio of a conversation."""

    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class TranscriptionAudio(WireModel):
    """Audio of a transcription session."""

    input: AudioInput = AudioInput(transcription=Transcription())


class FunctionTool(WireModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: LongText | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(WireModel):
    """The function that must be called."""

    type: Literal["function"]
    name: ShortText


class TokenLimits(WireModel):
    """Bounds of a truncated context."""

    post_instructions: Annotated[int, Field(ge=0)]


class RetentionRatio(WireModel):
    """How much of a full context is kept."""

    type: Literal["retention_ratio"]
    retention_ratio: Annotated[float, Field(ge=0, le=1)]
    token_limits: TokenLimits | None = None


class Tracing(WireModel):
    """Names for a trace; accepted and echoed."""

    workflow_name: ShortText | None = None
    group_id: ShortText | None = None
    metadata: dict[str, Any] | None = None


class Reasoning(WireModel):
    """How long to think."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


ToolChoice = Literal["auto", "none", "required"] | FunctionChoice
OutputModalities = Annotated[list[Modality], Field(min_length=1, max_length=2)]
MaxOutputTokens = Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)] | Literal["inf"]


def one_modality(value: list[Any]) -> list[Any]:
    """Refuse text and audio together: spoken answers have their text anyway."""
    if len(set(value)) != 1:
        raise ValueError('text and audio together are not supported; use ["audio"] or ["text"]')
    return list(dict.fromkeys(value))


class RealtimeConfig(WireModel):
    """A conversation."""

    type: Literal["realtime"]
    model: ShortText = ""
    output_modalities: OutputModalities = Field(default=["audio"])
    instructions: LongText = ""
    tools: Annotated[list[FunctionTool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    max_output_tokens: MaxOutputTokens = "inf"
    truncation: Literal["auto", "disabled"] | RetentionRatio = "auto"
    tracing: Literal["auto"] | Tracing | None = None
    prompt: None = None
    reasoning: Reasoning | None = None
    include: list[Include] | None = None
    audio: Audio = Audio()

    _one_modality = field_validator("output_modalities")(one_modality)


class TranscriptionConfig(WireModel):
    """Speech is written down; nothing is answered."""

    type: Literal["transcription"]
    include: list[Include] | None = None
    audio: TranscriptionAudio = TranscriptionAudio()


SessionConfig = RealtimeConfig | TranscriptionConfig
_CONFIG: TypeAdapter[SessionConfig] = TypeAdapter(
    Annotated[RealtimeConfig | TranscriptionConfig, Field(discriminator="type")]
)
# None means "off" here, and is shown; elsewhere it stands for the default.
_OFF = frozenset({"turn_detection", "transcription", "noise_reduction", "tracing"})
_SHOWN_NULL = _OFF | {"idle_timeout_ms", "prompt"}
# Objects that an update changes field by field; everything else is replaced.
_MERGED = frozenset({"audio", "input", "output", *_OFF, "format"})


def default_config(kind: Literal["realtime", "transcription"], *, model: str, voice: str) -> Any:
    """Configuration of a session that the client has said nothing about."""
    if kind == "transcription":
        return TranscriptionConfig(type="transcription")
    audio = Audio(output=AudioOutput(voice=voice))
    return RealtimeConfig(type="realtime", model=model, audio=audio)


def updated_config(
    config: SessionConfig, patch: object, *, served: str, voices: Sequence[str]
) -> SessionConfig:
    """Apply a `session.update`: a deep merge in which null and empty values clear.

    Args:
        config: the session's configuration.
        patch: `session` of the event.
        served: the model.
        voices: names of its voices.

    Raises:
        RequestError: something is unknown, missing or invalid; nothing changes then.
    """
    if not isinstance(patch, dict):
        raise RequestError(
            "Invalid type for 'session': expected an object.", code="invalid_type", param="session"
        )
    kind = patch.get("type")
    if kind is None:
        raise RequestError(
            "Missing required parameter: 'session.type'.",
            code="missing_required_parameter",
            param="session.type",
        )
    base = dump(config, keep_null=_SHOWN_NULL)
    if kind == "transcription" != config.type:
        base = {"audio": {"input": base["audio"]["input"]}}
        base["audio"]["input"]["transcription"] = base["audio"]["input"]["transcription"] or {}
    changed = validated(_CONFIG, _merged(base, patch), "session")
    if isinstance(changed, RealtimeConfig):
        _check_realtime(changed, config, served, voices)
    return changed


def _merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in patch.items():
        old = result.get(key)
        if value is None and key not in _OFF:
            result.pop(key, None)
        elif key in _MERGED and isinstance(value, dict) and isinstance(old, dict):
            other = "type" in value and "type" in old and value["type"] != old["type"]
            result[key] = value if other else _merged(old, value)
        else:
            result[key] = value
    return result


def _check_realtime(
    config: RealtimeConfig, before: SessionConfig, served: str, voices: Sequence[str]
) -> None:
    if config.model:
        check_model(config.model, served, param="session.model")
    if voices and config.audio.output.voice is not None:
        resolve_voice(voice_name(config.audio.output), voices, param="session.audio.output.voice")
    check_tool_choice(config.tool_choice, config.tools, "session.tool_choice")
    if isinstance(before, RealtimeConfig) and before.tracing not in (None, config.tracing):
        raise RequestError(
            "Tracing cannot be changed once it is set.",
            code="invalid_value",
            param="session.tracing",
        )


def check_tool_choice(choice: ToolChoice, tools: Sequence[FunctionTool], param: str) -> None:
    """Make sure that a function that must be called is declared.

    Raises:
        RequestError: it is not.
    """
    if isinstance(choice, FunctionChoice) and choice.name not in {tool.name for tool in tools}:
        raise RequestError(
            f"Invalid value: tool '{choice.name}' is not among the tools.",
            code="invalid_value",
            param=param,
        )


def voice_name(output: AudioOutput) -> str:
    """Name of the voice; empty: the default one."""
    voice = output.voice
    return voice.id if isinstance(voice, VoiceId) else voice or ""


def session_object(
    config: SessionConfig, *, session_id: str, expires_at: int | None = None
) -> dict[str, Any]:
    """Complete session object for `session.created`, `session.updated` and client secrets."""
    kind = "realtime.session" if config.type == "realtime" else "realtime.transcription_session"
    fields = dump(config, keep_null=_SHOWN_NULL)
    head: dict[str, Any] = {"type": fields.pop("type"), "object": kind, "id": session_id}
    if expires_at is not None:
        head["expires_at"] = expires_at
    return head | fields
