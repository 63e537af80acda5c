"""What the tabs need of a model, in this process or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio
    from stepaudio.tasks.transcript import Transcript

OUTPUT_RATE = 24_000  # Hz, of all speech that a backend gives

Samples = NDArray[np.float32]
State = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, kw_only=True)
class BackendStatus:
    """What is known about the model now.

    Attributes:
        state: "loading" is followed by one of the others; a server that is gone may come back.
        model: its name.
        place: where it runs, for people: "this computer", or the address of a server.
        modes: what it can do (`stepaudio.tasks.modes`), "asr", "tts" and "voice_chat" among them;
            empty until it is known.
        voices: names of its voices, the default first.
        problem: why it failed, in plain words with what to do.
        chat: whether conversations can begin; they may fail where the rest works.
        chat_problem: why they cannot.
    """

    state: State
    model: str
    place: str
    modes: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    problem: str = ""
    chat: State = "loading"
    chat_problem: str = ""


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions:
    """How a recording is written down.

    Attributes:
        keywords: names and terms that may occur.
        on_progress: called with the share that is done, 0 to 1; a server does not tell it.
    """

    keywords: tuple[str, ...] = ()
    on_progress: Callable[[float], None] | None = None


@dataclass(frozen=True, kw_only=True)
class SpeakRequest:
    """A text to speak.

    Attributes:
        text: what to say.
        voice: name of a voice, or a recording of it (this computer only); empty: the default.
        instruction: how to say it.
        speed: 1.0 is normal.
        seed: of sampling; the same seed gives the same speech.
    """

    text: str
    voice: str = ""
    instruction: str = ""
    speed: float = 1.0
    seed: int = 0


@dataclass
class SpeechReport:
    """What is known about some speech beside its sound, filled in when its last piece was given.

    Attributes:
        sentences: text and audio codes of each sentence; None: a server does not tell them.
        warnings: one line for everything that may be wrong with it, or that was not followed.
    """

    sentences: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    warnings: tuple[str, ...] = ()


class Backend(Protocol):
    """A model as the tabs see it; every method may be called from any thread."""

    def status(self) -> BackendStatus:
        """What is known now; quick, never raises."""
        ...

    def wait_ready(self) -> BackendStatus:
        """Wait until the model is loaded.

        Raises:
            StepAudioError: it cannot be, or the server is gone.
        """
        ...

    def transcribe(self, path: Path, options: TranscribeOptions) -> Transcript:
        """Write down a recording, with the times of its words.

        Raises:
            StepAudioError: it cannot be read, is too long, or the server is gone.
        """
        ...

    def speak(self, request: SpeakRequest, report: SpeechReport | None = None) -> Iterator[Samples]:
        """Speak a text: float32 [samples] at `OUTPUT_RATE`, piece by piece as it is generated.

        Args:
            request: what to say and how.
            report: is filled in.

        Raises:
            StepAudioError: it cannot be spoken, or the server is gone.
        """
        ...

    def local_model(self) -> AbstractContextManager[StepAudio]:
        """The loaded model itself, for what only this computer can do; others wait meanwhile.

        Raises:
            ConfigError: the model is behind a server; the message says what to do.
            StepAudioError: it cannot be loaded.
        """
        ...
