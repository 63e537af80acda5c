"""What the HTTP endpoints need of the library: one that hears and one that speaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from stepaudio.tasks.transcript import Segment
from stepaudio_streaming.events import Samples


@dataclass(frozen=True, kw_only=True)
class RecognitionRequest:
    """A recording to write down.

    Attributes:
        audio: the file.
        name: what errors call it.
        language: code such as "en"; None: any.
        prompt: text that tells style or subject.
        keywords: names and terms that may occur.
        temperature: of sampling; 0: the best text.
        words: the times of the words are wanted.
        translate: write down in English.
        stream: segments are wanted as soon as they are there, rather than all of them soon.
    """

    audio: bytes
    name: str
    language: str | None = None
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    temperature: float = 0.0
    words: bool = False
    translate: bool = False
    stream: bool = False


@dataclass(frozen=True)
class Recognition:
    """A recording that is being written down.

    Attributes:
        segments: in order, with times in seconds.
        duration_s: of the recording.
        language: code of its language.
    """

    segments: AsyncIterator[Segment]
    duration_s: float
    language: str


class SpeechRecognizer(Protocol):
    """Writes down recordings."""

    async def recognize(self, request: RecognitionRequest) -> Recognition:
        """Begin with a recording.

        Raises:
            AudioLoadError: it cannot be read, or is too long.
            CapacityError: there is too much to do.
            RequestError: the model cannot do what is asked for.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SpeechRequest:
    """A text to speak.

    Attributes:
        text: what to say.
        voice: one of the voices.
        instructions: how to say it.
        speed: 1.0 is normal.
        seed: of sampling.
    """

    text: str
    voice: str
    instructions: str = ""
    speed: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class SpokenPiece:
    """Sound, float32 [samples] at 24 kHz, and the tokens that it took."""

    samples: Samples
    num_tokens: int = 0


@dataclass(frozen=True)
class Speech:
    """A text that is being spoken.

    Attributes:
        pieces: of its sound, in order; closing it ends the work.
        input_tokens: of text and instructions.
    """

    pieces: AsyncGenerator[SpokenPiece, None]
    input_tokens: int = 0


class Speaker(Protocol):
    """Speaks texts."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices, the default first."""
        ...

    async def speak(self, request: SpeechRequest) -> Speech:
        """Begin to speak.

        Raises:
            CapacityError: there is too much to do.
            RequestError: the text cannot be spoken.
        """
        ...
