"""Tools that a model may call: the protocol, sets of tools, and a few that come with the package.

Tools are asynchronous, as in the realtime server; `ToolSet.run` calls them from plain code.
"""

from stepaudio.tools.base import Tool, ToolResult, ToolSet
from stepaudio.tools.builtin import builtin_tools
from stepaudio.tools.clock import Clock, DateTool, TimeTool
from stepaudio.tools.duration import parse_duration, say_duration
from stepaudio.tools.timer import Timer, TimerTool
from stepaudio.tools.weather import SampleWeather, WeatherProvider, WeatherReport, WeatherTool

__all__ = [
    "Clock",
    "DateTool",
    "SampleWeather",
    "TimeTool",
    "Timer",
    "TimerTool",
    "Tool",
    "ToolResult",
    "ToolSet",
    "WeatherProvider",
    "WeatherReport",
    "WeatherTool",
    "builtin_tools",
    "parse_duration",
    "say_duration",
]
