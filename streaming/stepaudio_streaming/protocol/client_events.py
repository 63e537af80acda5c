"""Client events: decoded, named, and their fields checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

from pydantic import Field

from stepaudio.errors import RequestError
from stepaudio_streaming.protocol.items import ItemId
from stepaudio_streaming.protocol.validation import WireModel, validated

MAX_EVENT_ID = 512


class ClientEvent(WireModel):
    """An event of the client."""

    type: str
    event_id: Annotated[str, Field(max_length=MAX_EVENT_ID)] | None = None


class SessionUpdate(ClientEvent):
    """Change the session."""

    session: dict[str, Any]


class AudioAppend(ClientEvent):
    """More audio."""

    audio: str


class AudioCommit(ClientEvent):
    """The buffer is a turn."""


class AudioClear(ClientEvent):
    """Forget the buffer."""


class ItemCreate(ClientEvent):
    """A new item."""

    item: dict[str, Any]
    previous_item_id: ItemId | None = None


class ItemRetrieve(ClientEvent):
    """Show an item."""

    item_id: ItemId


class ItemTruncate(ClientEvent):
    """Cut a spoken answer."""

    item_id: ItemId
    content_index: Annotated[int, Field(ge=0)]
    audio_end_ms: Annotated[int, Field(ge=0)]


class ItemDelete(ClientEvent):
    """Delete an item."""

    item_id: ItemId


class ResponseCreate(ClientEvent):
    """Answer."""

    response: dict[str, Any] | None = None


class ResponseCancel(ClientEvent):
    """Stop answering."""

    response_id: ItemId | None = None


class OutputAudioClear(ClientEvent):
    """Forget what was not played; means something for WebRTC and SIP only."""


_APPEND = "input_audio_buffer.append"
_EVENTS: Mapping[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    _APPEND: AudioAppend,
    "input_audio_buffer.commit": AudioCommit,
    "input_audio_buffer.clear": AudioClear,
    "conversation.item.create": ItemCreate,
    "conversation.item.retrieve": ItemRetrieve,
    "conversation.item.truncate": ItemTruncate,
    "conversation.item.delete": ItemDelete,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "output_audio_buffer.clear": OutputAudioClear,
}
_APPEND_FIELDS = {"type", "audio", "event_id"}


def decode_message(message: str) -> dict[str, Any]:
    """Decode a text frame.

    Raises:
        RequestError: it is no JSON object.
    """
    try:
        data = _DECODER.decode(message)
    except (ValueError, RecursionError):
        raise RequestError("The event could not be parsed as JSON.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise RequestError("An event must be a JSON object.", code="invalid_type")
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# `json.loads` would make a decoder for every frame of every client.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def event_id_of(data: Mapping[str, Any]) -> str | None:
    """Id that the client gave to an event, whatever else is wrong with it."""
    event_id = data.get("event_id")
    return event_id if isinstance(event_id, str) and len(event_id) <= MAX_EVENT_ID else None


def plain_audio(data: Mapping[str, Any]) -> str | None:
    """Audio of an append without anything unusual; None: it needs the general validation.

    It comes fifty times a second from every client.
    """
    if data.get("type") != _APPEND or not data.keys() <= _APPEND_FIELDS:
        return None
    audio = data.get("audio")
    return audio if type(audio) is str else None


def parse_event(data: dict[str, Any]) -> ClientEvent:
    """Check a decoded event.

    Raises:
        RequestError: its type is unknown, or a field is unknown, missing or invalid.
    """
    kind = data.get("type")
    if kind is None:
        raise RequestError(
            "Missing required parameter: 'type'.", code="missing_required_parameter", param="type"
        )
    model = _EVENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        shown = f"'{kind[:64]}'" if isinstance(kind, str) else "no text"
        raise RequestError(
            f"Invalid value: {shown}. Supported values are: {', '.join(_EVENTS)}.",
            code="invalid_value",
            param="type",
        )
    _check_unicode(data)
    try:
        return validated(model, data, "event")
    except RequestError as error:
        # Fields of the event itself are named without a prefix.
        message = str(error).replace("'event.", "'")
        param = error.param.removeprefix("event.") if error.param else None
        raise RequestError(message, code=error.code, param=param) from None


def _check_unicode(data: object) -> None:
    """JSON may spell half a character; no text may have one."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(
            "The event holds a lone surrogate, which is no character.", code="invalid_value"
        ) from None
    except RecursionError:
        raise RequestError("The event is nested too deeply.", code="invalid_value") from None
