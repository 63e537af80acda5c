"""Life of one response: its server events in the required order, whatever the engine yields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from stepaudio_streaming.audio import (
    OutputEncoder,
    WireFormat,
    encode_base64,
    sample_bytes,
    wire_rate,
)
from stepaudio_streaming.events import (
    OUTPUT_RATE,
    OutputAudio,
    OutputFinished,
    OutputText,
    OutputToolCall,
    PromptTokens,
)
from stepaudio_streaming.playback import PlaybackClock
from stepaudio_streaming.protocol.conversation import Conversation
from stepaudio_streaming.protocol.items import Content, Item, Status
from stepaudio_streaming.protocol.outbox import Outbox
from stepaudio_streaming.protocol.response_config import ResponsePlan

CancelReason = Literal["turn_detected", "client_cancelled"]
MAX_DELTA_S = 2.0  # clients take frames of 1 MiB at most; this is 128 kB


class ResponseRun:
    """A response that is being made.

    Args:
        response_id: its id.
        item_id: id of the message that it will have, if it has one.
        plan: what was asked for.
        conversation: that of the session.
        outbox: where its events go.
    """

    def __init__(
        self,
        response_id: str,
        item_id: str,
        plan: ResponsePlan,
        conversation: Conversation,
        outbox: Outbox,
    ) -> None:
        self.id = response_id
        self.item_id = item_id
        self.plan = plan
        self.playback = PlaybackClock()
        self._conversation = conversation
        self._outbox = outbox
        self._items: list[Item] = []
        self._message: Item | None = None
        self._encoder = OutputEncoder(plan.wire)
        self._prompt: PromptTokens | None = None
        self._text_tokens = self._audio_tokens = 0
        self._say("response.created", response=self._object("in_progress"))

    @property
    def in_conversation(self) -> bool:
        """Whether its items become part of the conversation."""
        return self.plan.in_conversation

    @property
    def has_spoken(self) -> bool:
        """Whether audio was sent."""
        return self.playback.sent_ms > 0

    # ---- what the engine yields --------------------------------------------------------------

    def start(self, prompt: PromptTokens) -> None:
        """The engine has begun."""
        self._prompt = prompt

    def add_text(self, event: OutputText) -> None:
        """More text, or more of the transcript of what is spoken."""
        self._text_tokens += event.num_tokens
        if not event.text:
            return
        part = self._open_part()
        if part.type == "output_audio":
            part.transcript = (part.transcript or "") + event.text
            self._say_part("response.output_audio_transcript.delta", delta=event.text)
        else:
            part.text += event.text
            self._say_part("response.output_text.delta", delta=event.text)

    def add_audio(self, event: OutputAudio, now: float) -> None:
        """More speech."""
        self._audio_tokens += event.num_tokens
        if self.plan.options.modality == "audio":
            self._open_part().audio_ms += 1000.0 * len(event.samples) / OUTPUT_RATE
            self._send_audio(self._encoder.push(event.samples), now)

    def add_tool_call(self, event: OutputToolCall) -> None:
        """A function call, complete."""
        self._text_tokens += event.num_tokens
        self._close_message("completed")
        new_id = self._outbox.new_id
        item = Item(
            new_id("item"), "function_call", "in_progress", "assistant",
            name=event.name, call_id=new_id("call"),
        )  # fmt: skip
        self._add_item(item)
        head = {
            "response_id": self.id, "item_id": item.id, "output_index": len(self._items) - 1,
            "call_id": item.call_id,
        }  # fmt: skip
        item.text = event.arguments
        self._say("response.function_call_arguments.delta", **head, delta=event.arguments)
        self._say(
            "response.function_call_arguments.done",
            **head,
            name=event.name,
            arguments=event.arguments,
        )
        self._finish_item(item, "completed")

    def finish(self, event: OutputFinished, now: float) -> None:
        """The engine has nothing more."""
        if self._message is not None and self.has_spoken:
            self._send_audio(self._encoder.flush(), now)
        self._close_message("completed" if event.status == "completed" else "incomplete")
        details: dict[str, Any] | None = None
        if event.status == "incomplete":
            details = {"type": "incomplete", "reason": event.reason or "max_output_tokens"}
        elif event.status == "failed":
            error = {
                "type": "server_error",
                "code": "server_error",
                "message": event.error or "The response failed.",
            }
            details = {"type": "failed", "error": error}
        self._done(event.status, details)

    def cancel(self, reason: CancelReason) -> None:
        """Stop here; what was sent stays in the conversation as an incomplete item."""
        self._outbox.silenced.add(self.id)
        self._close_message("incomplete")
        self._done("cancelled", {"type": "cancelled", "reason": reason})

    # ---- items -------------------------------------------------------------------------------

    def _open_part(self) -> Content:
        if self._message is None:
            spoken = self.plan.options.modality == "audio"
            # The engine knows the first message of a response by this id.
            first = not any(item.type == "message" for item in self._items)
            item_id = self.item_id if first else self._outbox.new_id("item")
            self._message = Item(item_id, "message", "in_progress", "assistant")
            self._add_item(self._message)
            self._message.content.append(
                Content("output_audio", transcript="") if spoken else Content("output_text")
            )
            self._say_part("response.content_part.added", part=_part(self._message.content[0], ""))
        return self._message.content[0]

    def _add_item(self, item: Item) -> None:
        self._items.append(item)
        head = {"response_id": self.id, "output_index": len(self._items) - 1}
        self._say("response.output_item.added", **head, item=item.wire())
        if self.in_conversation:
            previous = self._conversation.insert(item)
            self._say("conversation.item.added", previous_item_id=previous, item=item.wire())

    def _close_message(self, status: Status) -> None:
        item, self._message = self._message, None
        if item is None:
            return
        part = item.content[0]
        head = self._part_head(item)
        if part.type == "output_audio":
            transcript = part.transcript or ""
            self._say("response.output_audio.done", **head)
            self._say("response.output_audio_transcript.done", **head, transcript=transcript)
            self._say("response.content_part.done", **head, part=_part(part, transcript))
        else:
            self._say("response.output_text.done", **head, text=part.text)
            self._say("response.content_part.done", **head, part=_part(part, part.text))
        self._finish_item(item, status)

    def _finish_item(self, item: Item, status: Status) -> None:
        item.status = status
        if self.in_conversation and item.id in self._conversation:
            previous = self._conversation.previous_id(item.id)
            self._say("conversation.item.done", previous_item_id=previous, item=item.wire())
        head = {"response_id": self.id, "output_index": self._items.index(item)}
        self._say("response.output_item.done", **head, item=item.wire())

    def _send_audio(self, data: bytes, now: float) -> None:
        for piece in _pieces(data, self.plan.wire):
            self._say_part("response.output_audio.delta", delta=encode_base64(piece))
        self.playback.send(
            1000.0 * len(data) / sample_bytes(self.plan.wire) / wire_rate(self.plan.wire), now
        )

    # ---- messages ----------------------------------------------------------------------------

    def _say(self, kind: str, **fields: Any) -> None:
        self._outbox.say(kind, **fields)

    def _say_part(self, kind: str, **fields: Any) -> None:
        if self._message is not None:
            self._say(kind, **self._part_head(self._message), **fields)

    def _part_head(self, item: Item) -> dict[str, Any]:
        return {
            "response_id": self.id,
            "item_id": item.id,
            "output_index": self._items.index(item),
            "content_index": 0,
        }

    def _done(self, status: str, details: dict[str, Any] | None) -> None:
        self._say("response.done", response=self._object(status, details))

    def _object(self, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        plan = self.plan
        wire_format: dict[str, Any] = {"type": plan.wire}
        if plan.wire == "audio/pcm":
            wire_format["rate"] = wire_rate(plan.wire)
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [item.wire() for item in self._items],
            "conversation_id": self._conversation.id if self.in_conversation else None,
            "output_modalities": [plan.options.modality],
            "max_output_tokens": plan.max_output_tokens,
            "audio": {"output": {"format": wire_format, "voice": plan.voice}},
            "usage": None if status == "in_progress" else self._usage(),
            "metadata": None if plan.metadata is None else dict(plan.metadata),
        }

    def _usage(self) -> dict[str, Any] | None:
        """Tokens of prompt and answer; None if the engine has not got so far."""
        if self._prompt is None:
            return None
        prompt = self._prompt
        num_in = prompt.text + prompt.audio
        num_out = self._text_tokens + self._audio_tokens
        cached = {
            "text_tokens": prompt.cached_text,
            "audio_tokens": prompt.cached_audio,
            "image_tokens": 0,
        }
        return {
            "total_tokens": num_in + num_out,
            "input_tokens": num_in,
            "output_tokens": num_out,
            "input_token_details": {
                "text_tokens": prompt.text,
                "audio_tokens": prompt.audio,
                "image_tokens": 0,
                "cached_tokens": prompt.cached_text + prompt.cached_audio,
                "cached_tokens_details": cached,
            },
            "output_token_details": {
                "text_tokens": self._text_tokens,
                "audio_tokens": self._audio_tokens,
            },
        }


def _part(part: Content, text: str) -> dict[str, Any]:
    if part.type == "output_audio":
        return {"type": "audio", "transcript": text}
    return {"type": "text", "text": text}


def _pieces(data: bytes, wire: WireFormat) -> Iterator[bytes]:
    """Cut audio into deltas that are small enough for every client."""
    step = int(MAX_DELTA_S * wire_rate(wire)) * sample_bytes(wire)
    for start in range(0, len(data), step):
        yield data[start : start + step]
