"""Whether somebody has finished, judged by the words and the pause behind them."""

from __future__ import annotations

# Hardly any English sentence ends with one of these.
_GOES_ON = frozenset(
    "a about after although am an and are as at because before but by can could did do does for"
    " from had has have his how i if in into is its it's i'm like may maybe might must my of on or"
    " our shall should since so some than that's the their then there's they to unless until"
    " very was we're were what's when where whether which while who whose why will with would your"
    "".split()
)
_FILLERS = frozenset("ah eh er erm hm hmm mm uh uhm um well".split())
# These end questions: "what are you looking at", "tell me how", "yes i can".
_MAY_END = frozenset(
    "about am at can could did do does for from had has have how in into is like may might must on"
    " should so then to was were when where who why will with would".split()
)

_FINISHED, _OPEN, _UNSURE = 0.85, 0.15, 0.45
_PER_SECOND = 0.25  # a pause says more the longer it lasts


def end_of_turn_score(text: str, silence_ms: float) -> float:
    """Probability that the user has finished.

    Args:
        text: what was heard of the turn; empty: nothing that could be understood.
        silence_ms: pause behind it.

    >>> end_of_turn_score("what time is it", 200) > 0.8
    True
    >>> end_of_turn_score("i would like to see the", 200) < 0.3
    True
    """
    words = text.lower().strip(" .,!?…").split()
    if not words or words[-1] in _FILLERS:
        score = _UNSURE if not words else _OPEN
    elif words[-1] in _GOES_ON:
        score = _UNSURE if words[-1] in _MAY_END else _OPEN
    else:
        score = _FINISHED
    return min(1.0, score + _PER_SECOND * silence_ms / 1000)
