"""Personas: who the assistant is and in which tone it speaks, as system text."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from stepaudio_recipes.dialogue_world.slots import Slots, Split

Mood = Literal["neutral", "cheerful", "formal", "brief"]

DEFAULT_NAME = "nano"
DEFAULT_PROFESSION = "small voice assistant"
DEFAULT_SYSTEM = "you are nano a small voice assistant"

_MOOD_WORDS: dict[Mood, tuple[str, ...]] = {
    "cheerful": ("cheerful", "happy", "joyful", "friendly", "merry"),
    "formal": ("formal", "polite", "serious", "official"),
    "brief": ("brief", "short", "quick", "terse"),
}
_DEFAULT_SYSTEMS = (DEFAULT_SYSTEM, DEFAULT_SYSTEM, "you are a helpful assistant", "talk with me")
_DEFAULT_SHARE = 0.4
_HELD_OUT = "!"
# What a text says about the persona follows from its slots.
_TEXTS = (
    "you are {name}",
    "your name is {name}",
    "you are called {name}",
    "you are {name} {a_profession}",
    "your name is {name} and you are {a_profession}",
    "you are {name} {a_mood} {profession}",
    "you are {name} {a_mood} assistant",
    "you are {a_mood} {profession} called {name}",
    "you are {a_mood} {profession} named {name}",
    "you are {a_profession} called {name}",
    "your name is {name} you are {a_mood} {profession}",
    "your name is {name} be {mood}",
    "you are {name} always be {mood}",
    "you are {a_profession}",
    "you are {a_mood} {profession}",
    "act as {a_profession}",
    "be {mood}",
    "be {mood} please",
    "always be {mood}",
    "you are {mood}",
    "you are {a_mood} assistant",
    "you are {a_mood} voice assistant",
    "answer in {a_mood} way",
    "give {mood} answers",
    "!your name is {name} and you are {a_mood} {profession}",
    "!you are {a_profession} named {name} be {mood}",
    "!please be {mood}",
)


@dataclass(frozen=True)
class Persona:
    """Who the assistant is.

    Attributes:
        text: system text that says so.
        name: its name.
        mood: tone of its answers.
        profession: what it says that it does.
    """

    text: str = DEFAULT_SYSTEM
    name: str = DEFAULT_NAME
    mood: Mood = "neutral"
    profession: str = DEFAULT_PROFESSION


def draw_persona(slots: Slots, split: Split, rng: Random) -> Persona:
    """Draw a persona; often the default one."""
    if rng.random() < _DEFAULT_SHARE:
        return Persona(rng.choice(_DEFAULT_SYSTEMS))
    template = rng.choice([t for t in _TEXTS if t.startswith(_HELD_OUT) == (split == "held_out")])
    template = template.removeprefix(_HELD_OUT)
    name, profession = rng.choice(slots.names), rng.choice(slots.professions)
    mood: Mood = rng.choice(tuple(_MOOD_WORDS))
    mood_word = rng.choice(_MOOD_WORDS[mood])
    text = template.format(
        name=name,
        mood=mood_word,
        a_mood=with_article(mood_word),
        profession=profession,
        a_profession=with_article(profession),
    )
    return Persona(
        text,
        name if "{name}" in template else DEFAULT_NAME,
        mood if "mood}" in template else "neutral",
        profession if "profession}" in template else DEFAULT_PROFESSION,
    )


def with_article(noun: str) -> str:
    """A noun behind "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
