"""What the server needs of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from stepaudio_streaming.events import Command, Configure, Event


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an engine serves.

    Attributes:
        model: name of the model.
        voices: names of its voices, the default first.
        created: when the model was made, in seconds since 1970.
        can_speak: it has a voice at all.
    """

    model: str
    voices: tuple[str, ...]
    created: int = 0
    can_speak: bool = True


class EngineSession(Protocol):
    """One conversation. All queues behind it are bounded."""

    async def send(self, command: Command) -> None:
        """Give a command; waits while the session's inbox is full.

        Raises:
            StepAudioError: the session has failed or was closed.
        """
        ...

    def events(self) -> AsyncIterator[Event]:
        """Everything that happens, in order; ends after `close`.

        Raises:
            StepAudioError: the session has failed; its slot is free.
        """
        ...

    async def close(self) -> None:
        """Free the slot at once; may be called twice."""
        ...


class Engine(Protocol):
    """Runs the model for all sessions."""

    @property
    def info(self) -> EngineInfo:
        """What it serves."""
        ...

    @property
    def ready(self) -> bool:
        """The model is loaded and warm."""
        ...

    async def open_session(self, settings: Configure) -> EngineSession:
        """Begin a conversation.

        Raises:
            CapacityError: every slot is taken.
        """
        ...
