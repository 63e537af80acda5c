"""Messages, their parts and the rendered prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from stepaudio.audio.frames import FrameGeometry, pieces
from stepaudio.text.vocab import TTS_START

Role = Literal["system", "user", "assistant", "tool_json_schemas", "input", "function_output"]
Mode = Literal["text", "speech"]

THINK_START = "\n<think>\n"
THINK_END = "</think>"


@dataclass(frozen=True)
class TextPart:
    """Plain text; names of special tokens in it are ordinary characters."""

    text: str


@dataclass(frozen=True)
class SpecialPart:
    """One special token by name, for what the program itself writes (``<tts_start>``)."""

    name: str


@dataclass(frozen=True)
class AudioPart:
    """One piece of at most 25 s that the model hears.

    Attributes:
        num_tokens: placeholders, one for each latent.
        key: name under which the caller keeps the audio.
    """

    num_tokens: int
    key: str


@dataclass(frozen=True)
class TokenPart:
    """Model output kept as ids, text and audio as they were generated."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class SpeechPart:
    """Speech output given as its text and its audio codes; rendering interleaves them."""

    text: str
    codes: tuple[int, ...]


Part = TextPart | SpecialPart | AudioPart | TokenPart | SpeechPart


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        role: who speaks. ``input`` is a tool result as the public client writes it,
            ``function_output`` as the public server does.
        parts: content in order.
        train: the content counts in the loss.
        interrupted: the user cut it off; open speech is closed by ``<tts_end>``.
        eot: false leaves the message open, so that the model continues it.
    """

    role: Role
    parts: tuple[Part, ...]
    train: bool = False
    interrupted: bool = False
    eot: bool = True

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"unknown role {self.role!r}; known are {', '.join(get_args(Role))}")


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        ids: token ids.
        audio_spans: first placeholder, end and key of every audio piece, in order.
        loss_mask: for every id, whether it counts in the loss.
    """

    ids: list[int] = field(default_factory=list)
    audio_spans: list[tuple[int, int, str]] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)


def text_message(role: Role, text: str, *, train: bool = False, eot: bool = True) -> Message:
    """Build a message of plain text."""
    return Message(role, (TextPart(text),), train=train, eot=eot)


def task_messages(instruction: str, parts: Iterable[Part]) -> list[Message]:
    """Build the conversation of a one-turn task: system instruction, then the user's content."""
    return [text_message("system", instruction), Message("user", tuple(parts))]


def audio_parts(num_samples: int, geometry: FrameGeometry, key: str) -> tuple[AudioPart, ...]:
    """Cut a waveform into its pieces of at most 25 s.

    Args:
        num_samples: length at 16 kHz.
        geometry: frame arithmetic of the encoder that will hear it.
        key: name of the waveform; piece ``n`` gets the key ``{key}/{n}``.
    """
    return tuple(
        AudioPart(geometry.tokens_for_samples(stop - start), f"{key}/{n}")
        for n, (start, stop) in enumerate(pieces(num_samples))
    )


def think_message(thought: str | None = None, *, mode: Mode = "speech") -> Message:
    """Open message that makes the Think variant think, or answer after it has thought.

    Args:
        thought: None to let the model think until ``</think>``; afterwards the text it thought,
            without that mark.
        mode: kind of the answer.
    """
    if thought is None:
        return text_message("assistant", THINK_START, eot=False)
    parts: list[Part] = [TextPart(f"{THINK_START}{thought}{THINK_END}\n\n")]
    if mode == "speech":
        parts.append(SpecialPart(TTS_START))
    return Message("assistant", tuple(parts), eot=False)
