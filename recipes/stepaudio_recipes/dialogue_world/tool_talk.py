"""Questions that a tool answers: the call, what tools give, and how it is said.

Tool names and the form of the results are those of `stepaudio.tools`, in spoken form.
"""

from __future__ import annotations

from random import Random

from stepaudio.conversation import ToolCall
from stepaudio_recipes.dialogue_world.replies import TOOL_FAILED
from stepaudio_recipes.dialogue_world.slots import say

TOOLS = ("time", "date", "timer", "weather", "calculator", "spelling")

_ARGUMENTS = {"timer": "duration", "weather": "place", "calculator": "sum", "spelling": "word"}
_FAILURE_SHARE = 0.08
_SAMPLE_SHARE = 0.5
_ERRORS = (
    "error no answer",
    "error timeout",
    "error the tool failed",
    "error no network",
    "error not available",
    "error bad arguments",
)
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_MONTHS = (
    "january february march april may june july august september october november december"
).split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
    "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split() + [
    f"twenty {w}" for w in "first second third fourth fifth sixth seventh eighth ninth".split()
]
_ORDINALS += ["thirtieth", "thirty first"]
_SKIES = (
    "sunny", "cloudy", "clear sky", "light rain", "heavy rain", "rain", "snow", "light snow",
    "fog", "storm", "windy", "mostly sunny", "partly cloudy", "overcast", "thunderstorm", "showers",
)  # fmt: skip


def call_of(tool: str, argument: str = "") -> ToolCall:
    """Call of a tool.

    A value begins with a space, because the model then copies the tokens of the question: behind a
    quotation mark the same word has other tokens.
    """
    name = _ARGUMENTS.get(tool)
    return ToolCall(tool, {name: f" {argument}"} if name else {})


def draw_result(tool: str, argument: str, rng: Random) -> tuple[str, str]:
    """A result of a tool as the model reads it, and what it then says."""
    if rng.random() < _FAILURE_SHARE:
        return rng.choice(_ERRORS), TOOL_FAILED
    if tool == "time":
        time = _draw_time(rng)
        return time, f"it is {time}"
    if tool == "date":
        date = _draw_date(rng)
        return date, f"today is {date}"
    if tool == "timer":
        return f"timer set for {argument}", f"your timer is set for {argument}"
    if rng.random() < _FAILURE_SHARE:
        return f"no weather for {argument}", f"sorry i have no weather for {argument}"
    sample = "sample " if rng.random() < _SAMPLE_SHARE else ""
    sky, degrees = rng.choice(_SKIES), say(rng.randint(-15, 40))
    report = f"{argument} {sky} {degrees} degrees"
    return f"{sample}weather for {report}", f"the {sample}weather for {report}"


def _draw_time(rng: Random) -> str:
    hour, minute = rng.randint(1, 12), rng.randint(0, 59)
    minutes = f" oh {say(minute)}" if 0 < minute < 10 else f" {say(minute)}" if minute else ""
    return f"{say(hour)}{minutes} {rng.choice('ap')} m"


def _draw_date(rng: Random) -> str:
    day, month = rng.choice(_WEEKDAYS), rng.choice(_MONTHS)
    return f"{day} {month} {rng.choice(_ORDINALS)} twenty {say(rng.randint(20, 39))}"
