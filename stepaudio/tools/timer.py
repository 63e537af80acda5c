"""Timers that are set by voice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from stepaudio.tools.base import ToolResult, text_argument
from stepaudio.tools.clock import Clock, local_time
from stepaudio.tools.duration import parse_duration, say_duration


@dataclass(frozen=True)
class Timer:
    """One timer.

    Attributes:
        due: when it runs out.
        duration_s: how long it was set for.
    """

    due: datetime
    duration_s: float

    @property
    def text(self) -> str:
        """Its duration in figures and units."""
        return say_duration(self.duration_s)


class TimerTool:
    """Sets timers; whoever holds the tool asks which have run out.

    Attributes:
        running: timers that were not taken yet.
    """

    name = "timer"
    description = "Sets a timer."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "duration": {"type": "string", "description": "as spoken, such as five minutes"}
        },
        "required": ["duration"],
    }

    def __init__(self, clock: Clock = local_time) -> None:
        """Take the clock that decides when a timer has run out."""
        self._clock = clock
        self.running: list[Timer] = []

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """See `Tool`."""
        seconds = parse_duration(text_argument(arguments, "duration"))
        timer = Timer(self._clock() + timedelta(seconds=seconds), seconds)
        self.running.append(timer)
        return ToolResult(f"timer set for {timer.text}")

    def take_expired(self) -> list[Timer]:
        """Timers that have run out since the last call, the earliest first."""
        now = self._clock()
        expired = sorted((t for t in self.running if t.due <= now), key=lambda t: t.due)
        self.running = [timer for timer in self.running if timer.due > now]
        return expired
