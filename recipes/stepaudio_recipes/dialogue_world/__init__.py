"""The small world that nano talks about: seeded conversations with the right answers.

`World.conversation` draws one conversation: a persona as system text, the tools that are declared,
and turns of a dozen skills, some of them misheard as a recogniser would mishear them. The answer
follows what was heard: a question whose meaning survived is answered, one whose meaning did not is
answered by `NOT_UNDERSTOOD`, one from outside of the world by `UNABLE`.

Templates marked ``!`` in ``questions.txt`` and a tenth of all names, places, words, durations and
sentences are held out for evaluation.
"""

from stepaudio_recipes.dialogue_world.conversations import Conversation, Turn
from stepaudio_recipes.dialogue_world.replies import NOT_UNDERSTOOD, REFUSALS, UNABLE
from stepaudio_recipes.dialogue_world.slots import Split
from stepaudio_recipes.dialogue_world.world import World, WorldConfig

__all__ = [
    "NOT_UNDERSTOOD",
    "REFUSALS",
    "UNABLE",
    "Conversation",
    "Split",
    "Turn",
    "World",
    "WorldConfig",
]
