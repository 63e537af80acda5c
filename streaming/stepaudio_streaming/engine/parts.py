"""What the engine needs of a model, and the values that pass between them; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.events import PromptTokens, ReplyOptions, Samples

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Heard:
    """What became of a stretch of the user's sound.

    Attributes:
        text: transcript; empty where there is no speech.
        understood: the transcript can be relied on.
        num_tokens: audio tokens of what was heard.
    """

    text: str
    understood: bool
    num_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a model is to continue.

    Attributes:
        prompt: for the model alone.
        params: how to continue it, for the model alone.
    """

    prompt: Any
    params: Any


@dataclass(frozen=True)
class Token:
    """Next token of a line.

    Attributes:
        id: the token.
        code: audio code that it stands for, if it does.
        finish: nothing follows; a "stop" token itself is not part of the line.
    """

    id: int
    code: int | None = None
    finish: Finish | None = None


@dataclass(frozen=True)
class Question:
    """A conversation that waits for an answer.

    Attributes:
        line: what to continue; None: `canned` is the answer.
        canned: answer without asking the model; it leaves no trace in the conversation.
        tools: names of functions that may be called.
        usage: tokens of the prompt.
    """

    line: Line | None
    canned: str = ""
    tools: tuple[str, ...] = ()
    usage: PromptTokens = field(default_factory=PromptTokens)


@dataclass(frozen=True)
class Call:
    """A function call: its name, and its arguments as JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """What a continuation means.

    Attributes:
        text: what is said.
        calls: functions that are called.
        remembered: nothing was wrong with it, so that it becomes part of the conversation.
    """

    text: str
    calls: tuple[Call, ...] = ()
    remembered: bool = True


@dataclass(frozen=True)
class Phrase:
    """A text that is spoken in one go.

    Attributes:
        text: what is said.
        line: its codes are the continuation of this.
        expected_s: how long it should last.
        pause_s: silence behind it.
        seed: of its sound.
    """

    text: str
    line: Line
    expected_s: float
    pause_s: float
    seed: int


@dataclass(frozen=True)
class Script:
    """A text that is ready to be spoken by a voice, which is for the model alone."""

    phrases: tuple[Phrase, ...]
    voice: Any


@dataclass(frozen=True)
class SpeechWish:
    """How to speak: name of the voice, style in words, 1.0 is normal speed."""

    voice: str
    style: str = ""
    speed: float = 1.0
    seed: int = 0


class TextStream(Protocol):
    """Tokens to text, piece by piece."""

    def push(self, token_id: int) -> str:
        """Text that is complete with this token."""
        ...

    def flush(self) -> str:
        """What is left."""
        ...


class Mind(Protocol):
    """Conversations to lines, and continuations to answers."""

    def ask(self, entries: Sequence[Entry], options: ReplyOptions) -> Question:
        """Prepare an answer to a conversation.

        Raises:
            StepAudioError: it cannot be answered.
        """
        ...

    def read(self, question: Question, token_ids: Sequence[int]) -> Answer:
        """What the continuation of a question's line means."""
        ...

    def written(self) -> TextStream:
        """Begin to read a continuation that is nothing but text."""
        ...

    def script(self, text: str, wish: SpeechWish) -> Script:
        """Prepare to speak.

        Raises:
            StepAudioError: it cannot be spoken.
        """
        ...


class Runner(Protocol):
    """The model's passes. Slots are numbers from 0; voices are known by the key of their track."""

    @property
    def num_slots(self) -> int:
        """Lines at once."""
        ...

    @property
    def first_codes(self) -> int:
        """Codes from which on a new voice makes its first sound."""
        ...

    @property
    def later_codes(self) -> int:
        """Codes from which on it makes more of it."""
        ...

    def init_vad(self) -> Any:
        """State of a detector that has heard nothing."""
        ...

    def speech_probabilities(self, frames: Samples, state: Any) -> tuple[list[float], Any]:
        """Probability of speech in every frame of 32 ms, and the new state."""
        ...

    def hear(self, samples: Samples) -> Iterator[Heard]:
        """Understand a stretch of sound, float32 at 16 kHz, a piece with every step."""
        ...

    def begin(self, slot: int, line: Line) -> Token:
        """Read a prompt into a free slot; gives the first token.

        Raises:
            StepAudioError: it does not fit.
        """
        ...

    def decode(self, slots: Sequence[int]) -> list[Token]:
        """Next token of some slots that have begun, in one pass."""
        ...

    def free(self, slot: int) -> None:
        """Forget what is in a slot."""
        ...

    def open_voice(self, key: int, voice: Any, seed: int) -> None:
        """Begin to speak."""
        ...

    def speak(self, codes: Mapping[int, Sequence[int]], last: frozenset[int]) -> dict[int, Samples]:
        """Give voices their next codes, all in one pass; those in `last` end and are closed.

        Returns:
            New sound of each, float32 at 24 kHz; there may be none yet.
        """
        ...

    def close_voice(self, key: int) -> None:
        """Forget a voice, if it is open."""
        ...
