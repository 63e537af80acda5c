"""Drawing conversations: which skill comes next, and what was heard of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from stepaudio_recipes.dialogue_world.conversations import Conversation, Turn
from stepaudio_recipes.dialogue_world.mishearing import SoundAlikes, mishear
from stepaudio_recipes.dialogue_world.personas import draw_persona
from stepaudio_recipes.dialogue_world.phrases import Template, read_templates
from stepaudio_recipes.dialogue_world.replies import NOT_UNDERSTOOD, UNABLE
from stepaudio_recipes.dialogue_world.skills import (
    CALCULATIONS,
    FOLLOW_UPS,
    SKILLS,
    Memory,
    Unrecoverable,
)
from stepaudio_recipes.dialogue_world.slots import Slots, Split
from stepaudio_recipes.dialogue_world.tool_talk import TOOLS
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.text_data import read_texts

# Words that make a sentence a part of the world.
_WORLD_WORDS = frozenset(
    """
    weather temperature rain raining sunny time date day timer clock hello hi hey goodbye bye thanks
    thank name spell repeat say again plus minus times add sum multiply divided subtract help who
    called welcome pardon you your
    """.split()
)
_FOREIGN_WORDS = (4, 14)  # fewest and most
_MAX_REPEATED_WORDS = 8
_MAX_TEXTS = 60_000
_VOCABULARY = 4000  # most frequent words that a question may be misheard as
_HESITATIONS = ("uh", "um", "the", "a", "and", "i", "oh", "the the", "a a", "mm", "in the", "it")
_OPENINGS = ("hey", "please", "okay", "um", "so", "well", "now", "uh", "alright")
_CLOSINGS = ("please", "for me", "now", "thanks", "computer")


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What conversations are like.

    Attributes:
        turns: fewest and most turns before follow-ups.
        severities: how badly questions are misheard, with the share of each.
        tools: shares of conversations with all tools, some, and none.
        politeness: share of questions with words around them.
        follow_ups: share of questions that get a follow-up where one is possible.
        skills: skills to draw; empty: all.
    """

    turns: tuple[int, int] = (3, 6)
    severities: tuple[tuple[float, float], ...] = (
        (0.0, 0.5),
        (0.12, 0.27),
        (0.3, 0.15),
        (0.7, 0.08),
    )
    tools: tuple[float, float, float] = (0.75, 0.12, 0.13)
    politeness: float = 0.3
    follow_ups: float = 0.3
    skills: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Everything that conversations of one split are drawn from."""

    split: Split
    slots: Slots
    templates: dict[str, tuple[Template, ...]]
    sounds: SoundAlikes
    config: WorldConfig = field(default_factory=WorldConfig)

    @classmethod
    def read(
        cls,
        texts: Path,
        lexicon: Path,
        split: Split = "train",
        config: WorldConfig | None = None,
    ) -> World:
        """Build the world over the texts and the pronunciations of the prepared data.

        Raises:
            ConfigError: a file is missing or damaged.
        """
        return cls.build(read_texts(texts), Lexicon.read(lexicon), split, config)

    @classmethod
    def build(
        cls,
        texts: Sequence[str],
        lexicon: Lexicon,
        split: Split = "train",
        config: WorldConfig | None = None,
    ) -> World:
        """Build the world.

        Args:
            texts: sentences in spoken form; what users repeat, and what is foreign to the world.
            lexicon: pronunciations.
            split: which templates and values to draw.
            config: what conversations are like.
        """
        texts = texts[:: max(1, len(texts) // _MAX_TEXTS)]
        sentences = dict.fromkeys(t for t in texts if len(t.split()) <= _MAX_REPEATED_WORDS)
        slots = Slots.of_split(split, tuple(sentences), tuple(filter(_is_foreign, texts)))
        counts = Counter(word for text in texts for word in text.split())
        frequent = [word for word, _ in counts.most_common(_VOCABULARY)]
        wanted = split == "held_out"
        templates = {
            skill: tuple(t for t in found if t.held_out == wanted)
            for skill, found in read_templates().items()
        }
        return cls(split, slots, templates, SoundAlikes(lexicon, frequent), config or WorldConfig())

    def conversation(self, rng: Random) -> Conversation:
        """Draw a conversation."""
        config = self.config
        memory = Memory(draw_persona(self.slots, self.split, rng), self._tools(rng))
        turns: list[Turn] = []
        skills = config.skills or tuple(SKILLS)
        weights = [SKILLS[skill].weight for skill in skills]
        for _ in range(rng.randint(*config.turns)):
            (skill,) = rng.choices(skills, weights)
            turns.append(self._turn(skill, memory, rng))
            following = self._follow_up(turns[-1], memory, rng)
            if following:
                turns.append(self._turn(following, memory, rng))
        return Conversation(memory.persona.text, memory.tools, tuple(turns))

    def _tools(self, rng: Random) -> tuple[str, ...]:
        kind = rng.choices(("all", "some", "none"), self.config.tools)[0]
        if kind == "some":
            return tuple(tool for tool in TOOLS if rng.random() < 0.5)
        return TOOLS if kind == "all" else ()

    def _follow_up(self, turn: Turn, memory: Memory, rng: Random) -> str | None:
        if memory.awaits is not None:
            return memory.awaits
        if memory.number is None or rng.random() >= self.config.follow_ups:
            return None
        return rng.choice(FOLLOW_UPS) if turn.skill in CALCULATIONS else None

    def _turn(self, skill: str, memory: Memory, rng: Random) -> Turn:
        memory.awaits = None
        if skill == "noise":
            turn = Turn(skill, self._noise(rng), NOT_UNDERSTOOD)
        elif skill == "foreign":
            turn = self._foreign(rng)
        else:
            turn = self._question(skill, memory, rng)
        memory.reply = turn.answer
        if skill not in CALCULATIONS:
            memory.number = None
        return turn

    def _question(self, skill: str, memory: Memory, rng: Random) -> Turn:
        """Draw until it is certain whether the question can be understood."""
        wanted = SKILLS[skill]
        while True:
            slots = wanted.draw(self.slots, rng)
            words = rng.choice(self.templates[skill]).fill(slots, rng)
            said = " ".join(word.text for word in words)
            severity = rng.choices(*zip(*self.config.severities, strict=True))[0]
            heard = mishear(words, severity, self.sounds, rng)
            if heard.verdict == "doubtful" or not heard.text:
                continue
            if heard.verdict == "lost":
                return Turn(skill, heard.text, NOT_UNDERSTOOD, said=said)
            try:
                answer = wanted.answer(heard.slots, memory, rng)
            except Unrecoverable:
                return Turn(skill, heard.text, NOT_UNDERSTOOD, said=said)
            text = self._politely(heard.text, rng) if wanted.polite else heard.text
            return Turn(skill, text, answer.text, answer.call, answer.result, said)

    def _politely(self, text: str, rng: Random) -> str:
        if rng.random() >= self.config.politeness:
            return text
        if rng.random() < 0.5:
            return f"{rng.choice(_OPENINGS)} {text}"
        return f"{text} {rng.choice(_CLOSINGS)}"

    def _noise(self, rng: Random) -> str:
        """What a recogniser makes of noise or of speech that nobody could follow."""
        draw = rng.random()
        if draw < 0.3:
            return rng.choice(_HESITATIONS)
        if draw < 0.6:
            return " ".join(rng.choices(self.sounds.words, k=rng.randint(1, 7)))
        words = rng.choice(self.slots.foreign).split()
        rng.shuffle(words)
        mixed = [w if rng.random() < 0.4 else rng.choice(self.sounds.words) for w in words]
        return " ".join(mixed[: rng.randint(2, 9)])

    def _foreign(self, rng: Random) -> Turn:
        said = rng.choice(self.slots.foreign)
        words = [
            rng.choice(self.sounds.near(word) or (word,)) if rng.random() < 0.1 else word
            for word in said.split()
        ]
        return Turn("foreign", " ".join(words), UNABLE, said=said)


def _is_foreign(text: str) -> bool:
    words = text.split()
    fewest, most = _FOREIGN_WORDS
    return fewest <= len(words) <= most and _WORLD_WORDS.isdisjoint(words)
