"""What the assistant says, in the tone of its persona: lower case, no punctuation, no digits."""

from __future__ import annotations

from stepaudio_recipes.dialogue_world.personas import Mood, Persona, with_article

NOT_UNDERSTOOD = "sorry i did not understand that"
UNABLE = "sorry i do not know that"
NO_TOOL = "sorry i have no tool for that"
TOO_HARD = "sorry that is too hard for me i only do small sums"
TOOL_FAILED = "sorry that did not work"
NO_NAME = "you have not told me your name"
NOTHING_SAID = "i have not said anything yet"
HOW_LONG = "for how long"
WHICH_PLACE = "for which place"
# Answers that promise nothing: what evaluation counts as a refusal.
REFUSALS = (NOT_UNDERSTOOD, UNABLE)

_GREETING = {
    "neutral": "{hello} how can i help you",
    "cheerful": "{hello} i am so happy to hear you",
    "formal": "{hello} how may i help you",
    "brief": "{hello}",
}
_HELLO = {"neutral": "hello", "cheerful": "hello there", "formal": "good day", "brief": "hello"}
_FINE = {
    "neutral": "i am fine thank you",
    "cheerful": "i am wonderful thank you",
    "formal": "i am very well thank you for asking",
    "brief": "fine thanks",
}
_WELCOME = {
    "neutral": "you are welcome",
    "cheerful": "you are very welcome my friend",
    "formal": "it was my pleasure",
    "brief": "no problem",
}
_GOODBYE = {
    "neutral": "goodbye",
    "cheerful": "goodbye have a wonderful day",
    "formal": "goodbye and thank you",
    "brief": "bye",
}
_MEET = {
    "neutral": "nice to meet you {user}",
    "cheerful": "how lovely to meet you {user}",
    "formal": "it is an honor to meet you {user}",
    "brief": "hello {user}",
}
_OPENING = {"neutral": "", "cheerful": "sure thing ", "formal": "certainly ", "brief": ""}


def toned(mood: Mood, full: str, short: str) -> str:
    """An answer with the opening of its tone; a brief persona says the short one."""
    return short if mood == "brief" else _OPENING[mood] + full


def greeting(mood: Mood, part: str = "") -> str:
    """Answer to a greeting, with the part of the day if it was named."""
    return _GREETING[mood].format(hello=f"good {part}" if part else _HELLO[mood])


def fine(mood: Mood) -> str:
    """Answer to "how are you"."""
    return _FINE[mood]


def welcome(mood: Mood) -> str:
    """Answer to thanks."""
    return _WELCOME[mood]


def goodbye(mood: Mood) -> str:
    """Answer to a goodbye."""
    return _GOODBYE[mood]


def meet(mood: Mood, user: str) -> str:
    """Answer to a user's name."""
    return _MEET[mood].format(user=user)


def who(persona: Persona) -> str:
    """Answer to "who are you"."""
    full = f"i am {persona.name} {with_article(persona.profession)}"
    return f"i am {persona.name}" if persona.mood == "brief" else full


def bot_name(persona: Persona) -> str:
    """Answer to "what is your name"."""
    return persona.name if persona.mood == "brief" else f"my name is {persona.name}"


def job(persona: Persona) -> str:
    """Answer to "what do you do"."""
    return f"i am {with_article(persona.profession)}"


def abilities(has_tools: bool) -> str:
    """Answer to "what can you do"."""
    if has_tools:
        return "i can chat spell repeat do small sums tell the time and set timers"
    return "i can chat spell repeat and do small sums"
