"""A realtime session under virtual time, and a check that every event fits the SDK's types."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from stepaudio_streaming.events import (
    Command,
    Event,
    OutputAudio,
    OutputFinished,
    OutputStarted,
    OutputText,
    PromptTokens,
    Respond,
)
from stepaudio_streaming.protocol.ids import counted_ids
from stepaudio_streaming.protocol.outbox import Outbox
from stepaudio_streaming.protocol.realtime import RealtimeSession, SessionOptions
from stepaudio_streaming.protocol.session_config import default_config, updated_config

VOICES = ("kathleen", "emodb03")
SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
# Strict clients (zod) do not act on an event in which one of these is null.
NEVER_NULL = {"part", "delta", "status", "role", "name", "call_id", "arguments", "id", "type"}


def pcm(ms: int, value: int = 1000) -> bytes:
    """PCM16 at 24 kHz."""
    return np.full(24 * ms, value, "<i2").tobytes()


def check_wire(event: dict[str, Any]) -> None:
    """An event fits the SDK's types and has no null where strict clients want none."""
    SERVER_EVENT.validate_python(event)
    assert len(json.dumps(event)) < 1 << 20 or event["type"] == "conversation.item.retrieved"

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                assert entry is not None or key not in NEVER_NULL, f"{path}.{key} is null"
                walk(entry, f"{path}.{key}")
        elif isinstance(value, list):
            for entry in value:
                walk(entry, path)

    if event["type"] != "error":
        walk(event, event["type"])


class Driver:
    """Speaks for client, engine and clock of one session; keeps everything that comes out."""

    def __init__(
        self, kind: Any = "realtime", *, max_buffer_s: float = 900.0, **session: Any
    ) -> None:
        config = default_config(kind, model="nano", voice=VOICES[0])
        if session:
            patch = {"type": kind, **session}
            config = updated_config(config, patch, served="nano", voices=VOICES)
        options = SessionOptions(
            served="nano", voices=VOICES, new_id=counted_ids(), max_buffer_s=max_buffer_s
        )
        self.session = RealtimeSession(config, options)
        self.now = 0.0
        self.log: list[dict[str, Any]] = []
        self.commands: list[Command] = []
        self._take(self.session.open())

    def _take(self, out: Outbox) -> list[dict[str, Any]]:
        for event in out.messages:
            check_wire(event)
        self.log += out.messages
        self.commands += out.commands
        return out.messages

    def client(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        return self.raw(json.dumps({"type": kind, **fields}))

    def raw(self, message: str) -> list[dict[str, Any]]:
        return self._take(self.session.receive(message, self.now))

    def engine(self, *events: Event) -> list[dict[str, Any]]:
        return [m for event in events for m in self._take(self.session.hear(event, self.now))]

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass, with a tick at every deadline."""
        end, out = self.now + seconds, []
        while (due := self.session.deadline()) is not None and due <= end:
            self.now = due
            out += self._take(self.session.tick(due))
        self.now = end
        return out

    def append(self, data: bytes) -> list[dict[str, Any]]:
        return self.client("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    def update(self, **session: Any) -> list[dict[str, Any]]:
        return self.client("session.update", session={"type": "realtime", **session})

    def ask(self, **response: Any) -> Respond:
        """Ask for a response; what the engine is told."""
        self.client("response.create", response=response)
        command = self.commands[-1]
        assert isinstance(command, Respond)
        return command

    def last_respond(self) -> Respond:
        return [command for command in self.commands if isinstance(command, Respond)][-1]

    def speak(self, respond: Respond, words: str = "hello there", ms: int = 400) -> None:
        """The engine speaks, and goes on."""
        self.engine(OutputStarted(respond.response_id, PromptTokens(7, 5, 3, 1)))
        for word in words.split(" "):
            self.engine(OutputText(respond.response_id, word + " "))
            samples = np.full(24 * ms, 0.1, np.float32)
            self.engine(OutputAudio(respond.response_id, samples, num_tokens=ms // 40))

    def finish(self, respond: Respond, **how: Any) -> list[dict[str, Any]]:
        return self.engine(OutputFinished(respond.response_id, **how))

    def errors(self) -> list[dict[str, Any]]:
        return [event["error"] for event in self.log if event["type"] == "error"]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Types of events, equal neighbours once."""
    found: list[str] = []
    for event in events:
        if not found or found[-1] != event["type"]:
            found.append(event["type"])
    return found
