"""The tools that come with the package."""

from __future__ import annotations

from stepaudio.tools.base import ToolSet
from stepaudio.tools.calculator import CalculatorTool
from stepaudio.tools.clock import Clock, DateTool, TimeTool, local_time
from stepaudio.tools.spelling import SpellingTool
from stepaudio.tools.timer import TimerTool
from stepaudio.tools.weather import SampleWeather, WeatherProvider, WeatherTool


def builtin_tools(
    *,
    clock: Clock = local_time,
    weather: WeatherProvider | None = None,
    timer: TimerTool | None = None,
) -> ToolSet:
    """Time, date, timer, weather, calculator and spelling.

    Args:
        clock: gives the local time.
        weather: where weather comes from; None: a sample that says that it is one.
        timer: where timers are kept; None: in a tool of its own.
    """
    return ToolSet(
        [
            TimeTool(clock),
            DateTool(clock),
            timer or TimerTool(clock),
            WeatherTool(weather or SampleWeather()),
            CalculatorTool(),
            SpellingTool(),
        ]
    )
