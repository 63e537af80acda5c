"""Items of a conversation: what clients may create, and how they look on the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from stepaudio.errors import RequestError
from stepaudio_streaming.audio import (
    WireFormat,
    decode_base64,
    duration_ms,
    encode_base64,
    to_input_samples,
)
from stepaudio_streaming.events import ContextItem, ContextPart, ItemKind
from stepaudio_streaming.protocol.ids import NewId
from stepaudio_streaming.protocol.session_config import LongText
from stepaudio_streaming.protocol.validation import WireModel, validated

Status = Literal["completed", "incomplete", "in_progress"]
ItemId = Annotated[str, Field(min_length=1, max_length=64)]


@dataclass
class Content:
    """One part of a message.

    Attributes:
        type: as on the wire, such as "output_audio".
        text: of text parts.
        transcript: of audio parts; None: not known (yet).
        audio: encoded audio of the user, None if it is not kept.
        audio_ms: duration of audio parts.
    """

    type: Literal["input_text", "input_audio", "output_text", "output_audio"]
    text: str = ""
    transcript: str | None = None
    audio: bytes | None = None
    audio_ms: float = 0.0

    def wire(self, *, with_audio: bool = False) -> dict[str, Any]:
        """JSON form; audio only on request."""
        if self.type in ("input_text", "output_text"):
            return {"type": self.type, "text": self.text}
        fields: dict[str, Any] = {"type": self.type, "transcript": self.transcript}
        if with_audio and self.audio is not None:
            fields["audio"] = encode_base64(self.audio)
        return fields


@dataclass
class Item:
    """A message, a function call or its result."""

    id: str
    type: Literal["message", "function_call", "function_call_output"]
    status: Status = "completed"
    role: Literal["system", "user", "assistant"] = "user"
    content: list[Content] = field(default_factory=list)
    name: str = ""
    call_id: str = ""
    text: str = ""  # arguments of a call, or the result of one

    def wire(self, *, with_audio: bool = False) -> dict[str, Any]:
        """JSON form."""
        head = {"id": self.id, "object": "realtime.item", "type": self.type, "status": self.status}
        if self.type == "message":
            content = [part.wire(with_audio=with_audio) for part in self.content]
            return head | {"role": self.role, "content": content}
        if self.type == "function_call":
            return head | {"name": self.name, "call_id": self.call_id, "arguments": self.text}
        return head | {"call_id": self.call_id, "output": self.text}

    def context(self, wire: WireFormat) -> ContextItem:
        """What the engine needs to know; audio parts are in the given format."""
        kind: ItemKind = self.role if self.type == "message" else self.type
        if self.type != "message":
            parts: tuple[ContextPart, ...] = (ContextPart(self.text),)
        else:
            parts = tuple(_context_part(part, wire) for part in self.content)
        return ContextItem(
            item_id=self.id, kind=kind, parts=parts, name=self.name, call_id=self.call_id
        )

    @property
    def audio_bytes(self) -> int:
        """Memory of the audio that is kept."""
        return sum(len(part.audio) for part in self.content if part.audio is not None)


def _context_part(part: Content, wire: WireFormat) -> ContextPart:
    if part.audio is not None:
        return ContextPart(part.transcript or "", to_input_samples(part.audio, wire))
    return ContextPart(part.text or part.transcript or "")


class _Content(WireModel):
    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio"]
    text: LongText | None = None
    audio: str | None = None
    transcript: LongText | None = None
    image_url: str | None = None
    detail: str | None = None


class _Base(WireModel):
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Status | None = None


class _MessageItem(_Base):
    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: Annotated[list[_Content], Field(max_length=64)]


class _CallItem(_Base):
    type: Literal["function_call"]
    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: LongText
    call_id: ItemId | None = None


class _CallOutputItem(_Base):
    type: Literal["function_call_output"]
    call_id: ItemId
    output: LongText


_ITEM: TypeAdapter[_MessageItem | _CallItem | _CallOutputItem] = TypeAdapter(
    Annotated[_MessageItem | _CallItem | _CallOutputItem, Field(discriminator="type")]
)
_ALLOWED = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio"),
    "assistant": ("output_text", "output_audio"),
}


def parse_item(data: object, new_id: NewId, wire: WireFormat, *, where: str = "item") -> Item:
    """Read an item that a client creates.

    Args:
        data: decoded JSON.
        new_id: makes the ids that the client left out.
        wire: format of its audio.
        where: path that errors name.

    Raises:
        RequestError: something is unknown, missing or invalid.
    """
    parsed = validated(_ITEM, data, where)
    item_id = parsed.id or new_id("item")
    status = parsed.status or "completed"
    if isinstance(parsed, _MessageItem):
        content = [
            _content(part, parsed.role, wire, f"{where}.content[{index}]")
            for index, part in enumerate(parsed.content)
        ]
        return Item(item_id, "message", status, parsed.role, content)
    if isinstance(parsed, _CallItem):
        _check_arguments(parsed.arguments, f"{where}.arguments")
        call_id = parsed.call_id or new_id("call")
        return Item(
            item_id, "function_call", status, "assistant",
            name=parsed.name, call_id=call_id, text=parsed.arguments,
        )  # fmt: skip
    return Item(item_id, "function_call_output", status, call_id=parsed.call_id, text=parsed.output)


def _check_arguments(arguments: str, param: str) -> None:
    try:
        valid = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        valid = False
    if not valid:
        raise RequestError(
            f"Invalid value for '{param}': expected a JSON object as text.",
            code="invalid_value",
            param=param,
        )


def _content(part: _Content, role: str, wire: WireFormat, where: str) -> Content:
    if part.type == "input_image":
        raise RequestError(
            "Images are not supported: this model hears and reads.",
            code="unsupported_content_type",
            param=f"{where}.type",
        )
    if part.type not in _ALLOWED[role]:
        raise RequestError(
            f"Invalid value: '{part.type}'. Messages of role {role} may have "
            f"{' and '.join(_ALLOWED[role])}.",
            code="invalid_value",
            param=f"{where}.type",
        )
    if part.type in ("input_text", "output_text"):
        return Content(part.type, text=_required(part.text, f"{where}.text"))
    if part.type == "output_audio":
        # What a model has said is known by its words; sound from elsewhere is not its own.
        return Content("output_audio", transcript=_required(part.transcript, f"{where}.transcript"))
    audio = decode_base64(_required(part.audio, f"{where}.audio"), param=f"{where}.audio")
    length_ms = duration_ms(len(audio), wire)
    return Content("input_audio", transcript=part.transcript, audio=audio, audio_ms=length_ms)


def _required(value: str | None, param: str) -> str:
    if value is None:
        raise RequestError(
            f"Missing required parameter: '{param}'.",
            code="missing_required_parameter",
            param=param,
        )
    return value
