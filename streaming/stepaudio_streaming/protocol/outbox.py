"""What a session has to say: messages for the client and commands for the engine, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepaudio.errors import RequestError
from stepaudio_streaming.events import Command
from stepaudio_streaming.protocol.ids import NewId

ServerEvent = dict[str, Any]


@dataclass
class Outbox:
    """Collects what one call into the session brings about.

    Attributes:
        new_id: makes ids.
        messages: server events, ready for JSON.
        commands: for the engine.
        silenced: responses whose audio must not be sent any more, even if it waits already.
    """

    new_id: NewId
    messages: list[ServerEvent] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    silenced: set[str] = field(default_factory=set)

    def say(self, kind: str, **fields: Any) -> None:
        """Send a server event; fields that are None are null on the wire."""
        self.messages.append({"type": kind, "event_id": self.new_id("event"), **fields})

    def error(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        event_id: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        """Send an error event; the session goes on."""
        details = {
            "type": kind, "code": code, "message": message, "param": param, "event_id": event_id,
        }  # fmt: skip
        self.say("error", error=details)

    def refuse(self, error: RequestError, event_id: str | None) -> None:
        """Send the error event of a client event that cannot be served."""
        self.error(str(error), code=error.code, param=error.param, event_id=event_id)

    def command(self, command: Command) -> None:
        """Tell the engine."""
        self.commands.append(command)

    def drain(self) -> Outbox:
        """Take everything out."""
        taken = Outbox(self.new_id, self.messages, self.commands, self.silenced)
        self.messages, self.commands, self.silenced = [], [], set()
        return taken
