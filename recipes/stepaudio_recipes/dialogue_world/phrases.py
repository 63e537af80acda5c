"""Question templates: read from ``questions.txt``, expanded into words that know their role."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from random import Random
from typing import Literal

from stepaudio.errors import ConfigError

Role = Literal["filler", "cue", "slot"]
_PIECE = re.compile(r"\(([^()]*)\)|(\S+)")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Word:
    """One word of a question.

    Attributes:
        text: the word.
        role: "cue" carries the meaning of the question, "slot" is what it is about.
        slot: name of the slot.
    """

    text: str
    role: Role
    slot: str = ""


@dataclass(frozen=True)
class Template:
    """One way to ask, with open alternatives and slots; held-out ones are never trained."""

    text: str
    held_out: bool

    def fill(self, slots: Mapping[str, str], rng: Random) -> list[Word]:
        """Choose among the alternatives and fill the slots."""
        words: list[Word] = []
        for alternatives, piece in _PIECE.findall(self.text):
            chosen = rng.choice(alternatives.split("|")) if not piece else piece
            for token in chosen.split():
                words += _words(token, slots)
        return words


def _words(token: str, slots: Mapping[str, str]) -> list[Word]:
    slot = _SLOT.fullmatch(token)
    if slot is not None:
        return [Word(text, "slot", slot[1]) for text in slots[slot[1]].split()]
    if token.startswith("*"):
        return [Word(token[1:], "cue")]
    return [Word(token, "filler")]


def parse_templates(text: str) -> dict[str, tuple[Template, ...]]:
    """Templates by skill.

    Raises:
        ConfigError: a line stands before the first skill, or a skill has nothing to train.
    """
    skills: dict[str, list[Template]] = {}
    skill = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#"):
            continue
        if line.startswith("["):
            skill = line.strip("[]")
            skills[skill] = []
        elif not skill:
            raise ConfigError(f"questions: {line!r} stands before the first [skill]")
        else:
            skills[skill].append(Template(line.removeprefix("!"), line.startswith("!")))
    empty = [name for name, found in skills.items() if all(t.held_out for t in found)]
    if empty:
        raise ConfigError(f"questions: skills {empty} have no template to train")
    return {name: tuple(found) for name, found in skills.items()}


def read_templates() -> dict[str, tuple[Template, ...]]:
    """The templates of the package, by skill."""
    return parse_templates(_resource("questions.txt"))


def read_list(name: str) -> tuple[str, ...]:
    """A word list of the package: entries on lines, or words separated by spaces."""
    lines = _resource(name).splitlines()
    if name == "places.txt":
        return tuple(filter(None, map(str.strip, lines)))
    return tuple(word for line in lines for word in line.split())


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
