"""Tools that a model may call: the protocol, sets of tools, and a few that come with the package.

Tools are asynchronous, as in the realtime server; `ToolSet.run` calls them from plain code.
"""

from stepaudio.tools.base import Tool, ToolResult, ToolSet
from stepaudio.tools.builtin import builtin_tools
from stepaudio.tools.calculator import CalculatorTool, calculate
from stepaudio.tools.clock import Clock, DateTool, TimeTool
from stepaudio.tools.duration import parse_duration, say_duration
from stepaudio.tools.numbers import parse_number
from stepaudio.tools.spelling import SpellingTool
from stepaudio.tools.timer import Timer, TimerTool
from stepaudio.tools.weather import SampleWeather, WeatherProvider, WeatherReport, WeatherTool

__all__ = [
    "CalculatorTool",
    "Clock",
    "DateTool",
    "SampleWeather",
    "SpellingTool",
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
    "calculate",
    "parse_duration",
    "parse_number",
    "say_duration",
]
