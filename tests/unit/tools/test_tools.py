"""Tools: what they tell, and that nothing that goes wrong in one ends a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from stepaudio.conversation import ToolCall
from stepaudio.errors import ToolError
from stepaudio.tools import (
    TimerTool,
    ToolResult,
    ToolSet,
    WeatherReport,
    WeatherTool,
    builtin_tools,
    calculate,
    parse_duration,
    say_duration,
)

NOON = datetime(2026, 11, 26, 12, 0)


class Hands:
    """A clock that a test moves."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Fake:
    """A tool that does what a test wants."""

    name: str
    outcome: ToolResult | Exception | float
    description: str = ""
    parameters: Mapping[str, Any] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.parameters = {}

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if isinstance(self.outcome, float):
            await asyncio.sleep(self.outcome)
            return ToolResult("late")
        return self.outcome


def ask(tools: ToolSet, name: str, **arguments: object) -> ToolResult:
    (result,) = tools.run([ToolCall(name, arguments)])
    return result


@pytest.mark.parametrize(
    ("hour", "minute", "text"),
    [
        (0, 0, "12:00 am"),
        (0, 5, "12:05 am"),
        (11, 59, "11:59 am"),
        (12, 0, "12:00 pm"),
        (13, 7, "1:07 pm"),
        (23, 30, "11:30 pm"),
    ],
)
def test_time(hour: int, minute: int, text: str) -> None:
    clock = Hands(NOON.replace(hour=hour, minute=minute))
    assert ask(builtin_tools(clock=clock), "time").text == text


def test_date_is_english_in_every_locale() -> None:
    tools = builtin_tools(clock=Hands())
    assert ask(tools, "date").text == "Thursday, November 26, 2026"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("five minutes", 300),
        (" twenty five seconds", 25),
        ("a minute", 60),
        ("half a minute", 30),
        ("half an hour", 1800),
        ("one and a half hours", 5400),
        ("an hour and a half", 5400),
        ("a quarter of an hour", 900),
        ("1 hour 30 minutes", 5400),
        ("1.5 hours", 5400),
        ("one hundred minutes", 6000),
        ("Two Hours and ten minutes", 7800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(say_duration(seconds)) == seconds


@pytest.mark.parametrize(
    "text", ["", "five", "minutes", "windows", "two days", "30 hours", "zero hours"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ToolError, match="no duration"):
        parse_duration(text)


def test_timers_run_out_in_order() -> None:
    clock = Hands()
    timer = TimerTool(clock)
    tools = ToolSet([timer])
    assert ask(tools, "timer", duration=" ten minutes").text == "timer set for 10 minutes"
    assert not ask(tools, "timer", duration="five minutes").failed
    assert timer.take_expired() == []
    clock.now += timedelta(minutes=10)
    assert [expired.text for expired in timer.take_expired()] == ["5 minutes", "10 minutes"]
    assert timer.take_expired() == []


def test_weather_of_a_plugged_in_provider() -> None:
    class Station:
        async def __call__(self, place: str) -> WeatherReport | None:
            return WeatherReport("Rome", "sunny", 31) if place == "rome" else None

    tools = ToolSet([WeatherTool(Station())])
    assert ask(tools, "weather", place=" rome").text == "weather for Rome: sunny, 31 degrees"
    assert ask(tools, "weather", place="atlantis") == ToolResult("no weather for atlantis", True)


def test_sample_weather_says_so_and_stays() -> None:
    first, second = (ask(builtin_tools(), "weather", place="Oslo").text for _ in range(2))
    assert first == second
    assert first.startswith("sample weather for Oslo: ")
    others = {ask(builtin_tools(), "weather", place=f"place {n}").text[24:] for n in range(20)}
    assert len(others) > 10


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seven plus twelve", 19),
        ("  seventy minus eighty ", -10),
        ("minus three plus two", -1),
        ("two plus three times four", 14),
        ("nine divided by two times four", 18),
        ("one hundred and twenty plus for", 124),
        ("5 times two thousand and one", 10_005),
        ("ten minus minus four", 14),
    ],
)
def test_sums(text: str, value: float) -> None:
    assert calculate(text) == value


def test_a_sum_is_said_with_its_result() -> None:
    tools = builtin_tools()
    assert ask(tools, "calculator", sum=" nine divided by two").text == "nine divided by two is 4.5"
    assert ask(tools, "calculator", sum="ten minus ten").text == "ten minus ten is 0"
    assert ask(tools, "calculator", sum="one divided by three").text.endswith(" is 0.33")
    assert ask(tools, "calculator", sum="ten times ten").text == "ten times ten is 100"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seven", "no small sum"),
        ("seven plus", "'seven plus' is no number"),
        ("x plus y", "'x' is no number"),
        ("six divided by zero", "divided by zero"),
        ("1e11 times 1e11", "no small sum"),
    ],
)
def test_what_cannot_be_calculated(text: str, reason: str) -> None:
    assert reason in ask(builtin_tools(), "calculator", sum=text).text


def test_spelling() -> None:
    assert ask(builtin_tools(), "spelling", word=" Jessica").text == "j e s s i c a"
    assert ask(builtin_tools(), "spelling", word="...").failed


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (ToolCall("timer", {}), "duration is missing"),
        (ToolCall("timer", {"duration": 5}), "duration is missing"),
        (ToolCall("timer", {"duration": "soon"}), "'soon' is no duration"),
        (ToolCall("weather", {"place": " "}), "place is missing"),
        (ToolCall("magic", {}), "there is no tool magic"),
    ],
)
def test_errors_become_results(call: ToolCall, reason: str) -> None:
    (result,) = builtin_tools().run([call])
    assert result == ToolResult(f"error: {reason}", failed=True)


def test_a_broken_and_a_slow_tool_do_not_stop_the_others() -> None:
    tools = ToolSet(
        [Fake("broken", RuntimeError("x")), Fake("slow", 60.0), Fake("good", ToolResult("yes"))],
        timeout_s=0.05,
    )
    results = tools.run([ToolCall(name, {}) for name in ("broken", "slow", "good")])
    assert [r.text for r in results] == ["error: the tool failed", "error: no answer", "yes"]


def test_names_are_unique_and_schemas_are_openai_functions() -> None:
    with pytest.raises(ToolError, match="two tools are called 'a'"):
        ToolSet([Fake("a", ToolResult("")), Fake("a", ToolResult(""))])
    tools = builtin_tools()
    assert tools.names == ("time", "date", "timer", "weather", "calculator", "spelling")
    functions = [schema["function"] for schema in tools.schemas]
    assert [f["name"] for f in functions] == list(tools.names)
    assert functions[2]["parameters"]["required"] == ["duration"]
    assert all(schema["type"] == "function" for schema in tools.schemas)
