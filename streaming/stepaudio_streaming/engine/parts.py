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
        sounds: what the model hears of it, for the mind alone; none where it writes down.
    """

    text: str
    understood: bool
    num_tokens: int = 0
    sounds: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a model is to continue.

    Attributes:
        prompt: for the model alone.
        params: how to continue it, for the model alone; None: it is only read, so that a later
            line which begins likewise is read sooner.
        sounds: names of the sounds in the prompt; equal names are equal sounds.
    """

    prompt: Any
    params: Any
    sounds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Token:
    """Next token of a line.

    Attributes:
        id: the token.
        code: audio code that it stands for, if it does.
        finish: nothing follows; a "stop" token itself is not part of the line.
        cached: text and audio tokens of the prompt that were known already; of the first token.
    """

    id: int
    code: int | None = None
    finish: Finish | None = None
    cached: tuple[int, int] = (0, 0)


class TextStream(Protocol):
    """Tokens to text, piece by piece."""

    def push(self, token_id: int) -> str:
        """Text that is complete with this token."""
        ...

    def flush(self) -> str:
        """What is left."""
        ...


@dataclass(frozen=True)
class Question:
    """A conversation that waits for an answer.

    Attributes:
        line: what to continue; None: `canned` is the answer.
        canned: answer without asking the model; it leaves no trace in the conversation.
        tools: names of functions that may be called.
        forced: functions in OpenAI's chat form one of which must be called; none: nothing must.
        usage: tokens of the prompt.
        stream: reads the continuation, whose text is told as it is written; None: when it is
            complete.
        voice: speaks the codes of the continuation itself, for the model alone; None: it has none.
        num_forgotten: oldest entries of the conversation for which there is no room any more.
    """

    line: Line | None
    canned: str = ""
    tools: tuple[str, ...] = ()
    forced: tuple[Mapping[str, Any], ...] = ()
    usage: PromptTokens = field(default_factory=PromptTokens)
    stream: TextStream | None = None
    voice: Any = None
    num_forgotten: int = 0


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
        error: why it is none.
    """

    text: str
    calls: tuple[Call, ...] = ()
    remembered: bool = True
    error: str = ""


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


Truncation = Mapping[str, Any] | str


class Mind(Protocol):
    """Conversations to lines, and continuations to answers."""

    @property
    def hears_sound(self) -> bool:
        """Entries of the user are his sound itself, not what was written down of it."""
        ...

    def ask(
        self, entries: Sequence[Entry], options: ReplyOptions, truncation: Truncation = "auto"
    ) -> Question:
        """Prepare an answer to a conversation.

        Args:
            entries: of the conversation.
            options: of the answer.
            truncation: what happens when the context is full, as the client said it.

        Raises:
            StepAudioError: it cannot be answered.
        """
        ...

    def ahead(self, entries: Sequence[Entry], options: ReplyOptions) -> Line | None:
        """What can be read already while the user still speaks; None: nothing.

        Args:
            entries: of the conversation; the last one is what the user has said so far.
            options: of the answer that will follow.
        """
        ...

    def dictation(self, sounds: Sequence[Any]) -> Question:
        """Prepare to write down sounds, where the user's entries are sound.

        Raises:
            StepAudioError: that cannot be done.
        """
        ...

    def read(self, question: Question, token_ids: Sequence[int]) -> Answer:
        """What the continuation of a question's line means."""
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
    def portions(self) -> tuple[int, ...]:
        """Codes of the first pieces of sound of a voice; all others are like the last of them."""
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

    def begin(self, slot: int, line: Line) -> Token | None:
        """Read a prompt into a slot that nobody uses, or go on with that.

        What the slot knows already is not read again, and the rest of it is forgotten.

        Returns:
            The first token, or one with finish "stop" where none is wanted; None: the prompt is
            long, and there is more to read.

        Raises:
            StepAudioError: it does not fit.
        """
        ...

    def decode(self, slots: Sequence[int]) -> list[Token]:
        """Next token of some slots that have begun, in one pass."""
        ...

    def free(self, slot: int) -> None:
        """Nobody uses a slot any more; what is in it may be known to a later line."""
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
