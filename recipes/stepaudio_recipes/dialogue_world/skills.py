"""The skills: what each is asked about, and the right answer to what was heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from stepaudio.conversation import ToolCall
from stepaudio_recipes.dialogue_world import replies
from stepaudio_recipes.dialogue_world.personas import Persona
from stepaudio_recipes.dialogue_world.replies import toned
from stepaudio_recipes.dialogue_world.slots import (
    DAY_PARTS,
    MAX_FACTOR,
    MAX_SUMMAND,
    Slots,
    durations,
    factors,
    parse_number,
    say,
    summands,
)
from stepaudio_recipes.dialogue_world.tool_talk import call_of, draw_result

_SENTENCES_SHARE = 0.6
_MAX_LOOSE_WORDS = 5
_DURATIONS = frozenset(durations())


class Unrecoverable(Exception):
    """Nobody could tell from what was heard what is wanted."""


@dataclass
class Memory:
    """What a conversation has come to.

    Attributes:
        persona: who answers.
        tools: declared tools.
        user: the user's name.
        number: result of the calculation in the turn before.
        reply: what was said last.
        awaits: skill of the answer to a question that the assistant has asked.
    """

    persona: Persona
    tools: tuple[str, ...] = ()
    user: str | None = None
    number: int | None = None
    reply: str | None = None
    awaits: str | None = None


@dataclass(frozen=True)
class Answer:
    """What is said, and the call before it."""

    text: str
    call: ToolCall | None = None
    result: str | None = None


Draw = Callable[[Slots, Random], dict[str, str]]
Reply = Callable[[Mapping[str, str], Memory, Random], Answer]


@dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
        weight: how often it is drawn; 0: only as a follow-up.
        answer: answer to the slots that were heard; raises `Unrecoverable`.
        draw: values of its slots.
        polite: words such as "please" may stand around the question.
    """

    weight: float
    answer: Reply
    draw: Draw = lambda slots, rng: {}
    polite: bool = True


def _says(text: Callable[[Memory], str]) -> Reply:
    """Answer that depends on the memory alone."""
    return lambda heard, memory, rng: Answer(text(memory))


# ---- calculating -----------------------------------------------------------------------------

_SIGNS: Mapping[str, Callable[[int, int], int]] = {
    "plus": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "times": lambda a, b: a * b,
    "divided by": lambda a, b: a // b,
}
_LARGEST_RESULT = 999


def _calculated(sign: str, a: int, b: int, memory: Memory) -> Answer:
    mood = memory.persona.mood
    result = _SIGNS[sign](a, b)
    # Saying the sum again puts it into one form, and tells the user what was heard.
    sum_ = f"{say(a)} {sign} {say(b)}"
    text = f"{sum_} is {say(result)}"
    memory.number = result if abs(result) <= _LARGEST_RESULT else None
    if "calculator" in memory.tools:
        return Answer(toned(mood, text, text), call_of("calculator", sum_), text)
    most = MAX_FACTOR if sign == "times" else MAX_SUMMAND
    if not (0 <= a <= most and 0 <= b <= most) or sign == "divided by":
        memory.number = None
        return Answer(replies.TOO_HARD)
    return Answer(toned(mood, text, text))


def _number(heard: Mapping[str, str], slot: str) -> int:
    value = parse_number(heard.get(slot, ""))
    if value is None:
        raise Unrecoverable
    return value


def _calculates(sign: str) -> Reply:
    return lambda heard, memory, rng: _calculated(
        sign, _number(heard, "a"), _number(heard, "b"), memory
    )


def _goes_on(sign: str) -> Reply:
    def answer(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
        value = _number(heard, "b")
        if memory.number is None:
            raise Unrecoverable
        return _calculated(sign, memory.number, value, memory)

    return answer


def _divides(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
    a, b = _number(heard, "a"), _number(heard, "b")
    if not b or a % b:
        raise Unrecoverable
    return _calculated("divided by", a, b, memory)


def _too_hard(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
    for slot in heard:
        _number(heard, slot)
    return Answer(replies.TOO_HARD)


def _draw_numbers(draw: Callable[[Random], tuple[int, int]]) -> Draw:
    def slots(values: Slots, rng: Random) -> dict[str, str]:
        a, b = draw(rng)
        return {"a": say(a), "b": say(b)}

    return slots


def _draw_quotient(values: Slots, rng: Random) -> dict[str, str]:
    b, result = rng.randint(1, MAX_FACTOR), rng.randint(0, MAX_FACTOR)
    return {"a": say(b * result), "b": say(b)}


# ---- saying, spelling, names -----------------------------------------------------------------


def _draw_sentence(slots: Slots, rng: Random) -> dict[str, str]:
    """A sentence, or words in no order: these teach to copy what nobody could guess."""
    if rng.random() < _SENTENCES_SHARE:
        return {"sentence": rng.choice(slots.sentences)}
    return {"sentence": " ".join(rng.choices(slots.words, k=rng.randint(1, _MAX_LOOSE_WORDS)))}


def _repeats(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
    return Answer(_slot(heard, "sentence"))


def _says_again(memory: Memory) -> str:
    return memory.reply or replies.NOTHING_SAID


def _spells(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
    word = _slot(heard, "word")
    letters = " ".join(word)
    if "spelling" in memory.tools:
        return Answer(letters, call_of("spelling", word), letters)
    return Answer(letters)


def _learns_name(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
    memory.user = _slot(heard, "user")
    return Answer(replies.meet(memory.persona.mood, memory.user))


def _knows_name(memory: Memory) -> str:
    if memory.user is None:
        return replies.NO_NAME
    return toned(memory.persona.mood, f"your name is {memory.user}", memory.user)


def _greets_by_day(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
    part = _slot(heard, "part")
    if part not in DAY_PARTS:
        raise Unrecoverable
    return Answer(replies.greeting(memory.persona.mood, part))


def _slot(heard: Mapping[str, str], name: str) -> str:
    if not heard.get(name):
        raise Unrecoverable
    return heard[name]


# ---- tools -----------------------------------------------------------------------------------


def _calls(tool: str, slot: str = "") -> Reply:
    def answer(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
        argument = _slot(heard, slot) if slot else ""
        if slot == "duration" and argument not in _DURATIONS:
            raise Unrecoverable
        if tool not in memory.tools:
            return Answer(replies.NO_TOOL)
        result, text = draw_result(tool, argument, rng)
        # A failure, a question's answer in short: the tone opens only what is told.
        told = text.startswith(("it is", "today", "your", "the"))
        text = toned(memory.persona.mood, text, text) if told else text
        return Answer(text, call_of(tool, argument), result)

    return answer


def _asks_back(tool: str, question: str, awaited: str) -> Reply:
    def answer(heard: Mapping[str, str], memory: Memory, rng: Random) -> Answer:
        if tool not in memory.tools:
            return Answer(replies.NO_TOOL)
        memory.awaits = awaited
        return Answer(question)

    return answer


def _draw(slot: str, values: Callable[[Slots], tuple[str, ...]]) -> Draw:
    return lambda slots, rng: {slot: rng.choice(values(slots))}


_PLACE = _draw("place", lambda slots: slots.places)
_DURATION = _draw("duration", lambda slots: slots.durations)

SKILLS: Mapping[str, Skill] = {
    "greet": Skill(0.035, _says(lambda m: replies.greeting(m.persona.mood)), polite=False),
    "greet_day": Skill(0.02, _greets_by_day, _draw("part", lambda _: DAY_PARTS), polite=False),
    "how_are_you": Skill(0.04, _says(lambda m: replies.fine(m.persona.mood))),
    "who": Skill(0.05, _says(lambda m: replies.who(m.persona))),
    "bot_name": Skill(0.05, _says(lambda m: replies.bot_name(m.persona))),
    "job": Skill(0.04, _says(lambda m: replies.job(m.persona))),
    "abilities": Skill(0.015, _says(lambda m: replies.abilities(bool(m.tools)))),
    "human": Skill(0.012, _says(lambda m: "i am a small computer program")),
    "age": Skill(0.01, _says(lambda m: "i am a program and have no age")),
    "home": Skill(0.01, _says(lambda m: "i live in this computer")),
    "thanks": Skill(0.02, _says(lambda m: replies.welcome(m.persona.mood))),
    "bye": Skill(0.02, _says(lambda m: replies.goodbye(m.persona.mood))),
    "repeat": Skill(0.28, _repeats, _draw_sentence, polite=False),
    "again": Skill(0.015, _says(_says_again)),
    "spell": Skill(0.15, _spells, _draw("word", lambda s: s.words), polite=False),
    "add": Skill(0.13, _calculates("plus"), _draw_numbers(summands)),
    "subtract": Skill(0.13, _calculates("minus"), _draw_numbers(summands)),
    "multiply": Skill(0.08, _calculates("times"), _draw_numbers(factors)),
    "then_add": Skill(0.0, _goes_on("plus"), _draw_numbers(summands)),
    "then_subtract": Skill(0.0, _goes_on("minus"), _draw_numbers(summands)),
    "too_hard": Skill(0.015, _too_hard, _draw_numbers(factors)),
    "divide": Skill(0.03, _divides, _draw_quotient),
    "my_name": Skill(0.09, _learns_name, _draw("user", lambda s: s.names), polite=False),
    "ask_my_name": Skill(0.06, _says(_knows_name)),
    "time": Skill(0.035, _calls("time")),
    "date": Skill(0.03, _calls("date")),
    "timer": Skill(0.1, _calls("timer", "duration"), _DURATION),
    "timer_open": Skill(0.015, _asks_back("timer", replies.HOW_LONG, "duration_only")),
    "duration_only": Skill(0.0, _calls("timer", "duration"), _DURATION, polite=False),
    "weather": Skill(0.12, _calls("weather", "place"), _PLACE),
    "weather_open": Skill(0.02, _asks_back("weather", replies.WHICH_PLACE, "place_only")),
    "place_only": Skill(0.0, _calls("weather", "place"), _PLACE, polite=False),
    "noise": Skill(0.04, _says(lambda m: replies.NOT_UNDERSTOOD)),
    "foreign": Skill(0.06, _says(lambda m: replies.UNABLE)),
}
CALCULATIONS = frozenset(("add", "subtract", "multiply", "divide", "then_add", "then_subtract"))
FOLLOW_UPS = ("then_add", "then_subtract")
