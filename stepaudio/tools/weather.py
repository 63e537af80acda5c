"""The weather, from whatever provider is plugged in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from stepaudio.tools.base import ToolResult, text_argument

_SKIES = ("sunny", "cloudy", "light rain", "rain", "windy", "fog", "partly cloudy")
_COLDEST, _WARMEST = -5, 30  # degrees Celsius of the sample


@dataclass(frozen=True)
class WeatherReport:
    """The weather of a place.

    Attributes:
        place: the place.
        sky: a word or two, such as "light rain".
        degrees: temperature in the unit that the user expects.
        sample: made up, to try the tool without a provider.
    """

    place: str
    sky: str
    degrees: int
    sample: bool = False


class WeatherProvider(Protocol):
    """Where reports come from: an HTTP service, a station, or the sample."""

    async def __call__(self, place: str) -> WeatherReport | None:
        """Report of a place, None where it is unknown.

        Raises:
            ToolError: the service does not answer.
        """
        ...


class SampleWeather:
    """Made-up weather that says so; the same place always has the same."""

    async def __call__(self, place: str) -> WeatherReport | None:
        """See `WeatherProvider`."""
        digest = hashlib.sha256(place.lower().encode()).digest()
        degrees = _COLDEST + digest[1] % (_WARMEST - _COLDEST + 1)
        return WeatherReport(place, _SKIES[digest[0] % len(_SKIES)], degrees, sample=True)


@dataclass(frozen=True)
class WeatherTool:
    """Tells the weather of a place."""

    provider: WeatherProvider = field(default_factory=SampleWeather)
    name: ClassVar[str] = "weather"
    description: ClassVar[str] = "Tells the current weather of a place."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {"place": {"type": "string", "description": "city or country"}},
        "required": ["place"],
    }

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """See `Tool`."""
        place = text_argument(arguments, "place")
        report = await self.provider(place)
        if report is None:
            return ToolResult(f"no weather for {place}", failed=True)
        sample = "sample " if report.sample else ""
        return ToolResult(
            f"{sample}weather for {report.place}: {report.sky}, {report.degrees} degrees"
        )
