"""The time and the date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from stepaudio.tools.base import ToolResult

# Gives the local time; injected, so that tests and servers decide on it.
Clock = Callable[[], datetime]

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}
# Not from strftime, whose names depend on the locale.
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def local_time() -> datetime:
    """The time of this machine's time zone."""
    return datetime.now().astimezone()


@dataclass(frozen=True)
class TimeTool:
    """Says what time it is, such as "2:05 pm"."""

    clock: Clock = local_time
    name: ClassVar[str] = "time"
    description: ClassVar[str] = "Tells the current local time."
    parameters: ClassVar[Mapping[str, Any]] = NO_ARGUMENTS

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """See `Tool`."""
        now = self.clock()
        half = "am" if now.hour < 12 else "pm"
        return ToolResult(f"{(now.hour + 11) % 12 + 1}:{now.minute:02d} {half}")


@dataclass(frozen=True)
class DateTool:
    """Says which day it is, such as "Thursday, November 26, 2026"."""

    clock: Clock = local_time
    name: ClassVar[str] = "date"
    description: ClassVar[str] = "Tells today's date."
    parameters: ClassVar[Mapping[str, Any]] = NO_ARGUMENTS

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """See `Tool`."""
        today = self.clock()
        weekday, month = _WEEKDAYS[today.weekday()], _MONTHS[today.month - 1]
        return ToolResult(f"{weekday}, {month} {today.day}, {today.year}")
