"""Texts to takes, and decisions between two takes to a preference dataset."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from stepaudio.errors import RequestError
from stepaudio_webui.backend import OUTPUT_RATE, Backend, Samples, SpeakRequest, SpeechReport
from stepaudio_webui.server_backend import ServerBackend

MAX_TEXT = 4096  # characters, as `/v1/audio/speech` has it
MAX_VOICE_S = 15.0


@dataclass(frozen=True)
class Take:
    """Some speech.

    Attributes:
        request: what was to be said and how.
        samples: float32 [samples] at `OUTPUT_RATE`.
        sentences: text and audio codes of each sentence; None: a server does not tell them.
        warnings: one line for everything that may be wrong with it.
        first_sound_s: seconds until the first sound.
        wall_s: seconds until the last one.
    """

    request: SpeakRequest
    samples: Samples
    sentences: tuple[tuple[str, tuple[int, ...]], ...] | None
    warnings: tuple[str, ...]
    first_sound_s: float
    wall_s: float

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / OUTPUT_RATE

    def wav(self) -> bytes:
        """As a file."""
        return encoded(self.samples, "WAV")


@dataclass
class Speech:
    """Speech as it is made; iterate over it once, then `take` has all of it."""

    backend: Backend
    request: SpeakRequest
    _parts: list[Samples] = field(default_factory=list)
    _report: SpeechReport = field(default_factory=SpeechReport)
    _first_sound_s: float = 0.0
    _wall_s: float = 0.0

    def __iter__(self) -> Generator[Samples, None, None]:
        """Speak: float32 [samples] at `OUTPUT_RATE`, piece by piece.

        Raises:
            StepAudioError: it cannot be spoken, or the server is gone.
        """
        self.backend.wait_ready()
        started = time.perf_counter()
        for samples in self.backend.speak(self.request, self._report):
            if not len(samples):
                continue
            self._wall_s = time.perf_counter() - started
            self._first_sound_s = self._first_sound_s or self._wall_s
            self._parts.append(samples)
            yield samples
        self._wall_s = time.perf_counter() - started

    @property
    def take(self) -> Take:
        """What was spoken."""
        samples = np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)
        return Take(
            self.request,
            samples,
            self._report.sentences,
            self._report.warnings,
            self._first_sound_s,
            self._wall_s,
        )


@dataclass(frozen=True, kw_only=True)
class SpeechForm:
    """What the tab's fields hold.

    Attributes:
        text: what to say.
        voice: name of a voice.
        reference: recording whose voice is to speak; None: the named voice.
        has_consent: its speaker has agreed.
        instruction: how to say it.
        speed: 1.0 is normal.
        seed: of sampling.
    """

    text: str
    voice: str = ""
    reference: str | None = None
    has_consent: bool = False
    instruction: str = ""
    speed: float = 1.0
    seed: int = 0

    def checked(self, backend: Backend) -> SpeakRequest:
        """What to ask the backend for.

        Raises:
            RequestError: a field cannot be followed; says what to do.
            AudioLoadError: the recording cannot be read.
        """
        if not self.text.strip():
            raise RequestError("There is no text: write what to say")
        if len(self.text) > MAX_TEXT:
            raise RequestError(
                f"The text has {len(self.text)} characters; this page speaks up to {MAX_TEXT}. "
                "`stepaudio tts` takes any length"
            )
        if self.seed < 0:
            raise RequestError("The seed must be a whole number from 0 on")
        voice = self.voice
        if self.reference is not None:
            self._check_reference(backend)
            voice = self.reference
        return SpeakRequest(
            text=self.text,
            voice=voice,
            instruction=" ".join(self.instruction.split()),
            speed=self.speed,
            seed=self.seed,
        )

    def _check_reference(self, backend: Backend) -> None:
        if not self.has_consent:
            raise RequestError(
                "Tick the box that the person in the reference recording agrees, or remove the "
                "recording: without consent no voice is imitated"
            )
        if isinstance(backend, ServerBackend):
            raise RequestError(
                "A server takes no reference recordings: remove it, or start stepaudio-webui "
                "without --server"
            )


# ---- preferences ---------------------------------------------------------------------------------


def default_preference_folder() -> Path:
    """Folder for preferences among the user's own data, as the XDG rules have it."""
    data = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"
    return base / "stepaudio" / "preferences"


def save_preference(folder: Path, a: Take, b: Take, winner: str, model: str) -> int:
    """Save which of two takes of the same text is better; returns how many decisions there are.

    Args:
        folder: of the dataset.
        a: the first take.
        b: the second one.
        winner: "a" or "b".
        model: what spoke.

    Raises:
        OutputError: it cannot be written.
        RequestError: the takes are the same sound.
        StepAudioError: the file that is there is damaged.
    """
    from stepaudio.training.preference_writing import append_preference, store_audio
    from stepaudio.training.preferences import (
        PreferencePrompt,
        PreferenceRow,
        PreferenceTake,
        TakeSentence,
        read_preferences,
    )

    def stored(take: Take) -> PreferenceTake:
        file = store_audio(folder, encoded(take.samples, "FLAC"), ".flac")
        sentences = None
        if take.sentences is not None:
            sentences = tuple(TakeSentence(text, codes) for text, codes in take.sentences)
        return PreferenceTake(file, round(take.duration_s, 3), take.request.seed, sentences)

    if np.array_equal(a.samples, b.samples):
        raise RequestError("Both takes are the same sound: make new ones with another seed")
    voice, voice_file = a.request.voice, ""
    if os.path.isfile(voice):
        path = Path(voice)
        voice, voice_file = "", store_audio(folder, path.read_bytes(), path.suffix.lower())
    row = PreferenceRow(
        PreferencePrompt(a.request.text, voice, voice_file, a.request.instruction, a.request.speed),
        stored(a),
        stored(b),
        "a" if winner == "a" else "b",
        model,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )
    append_preference(folder, row)
    return len(read_preferences(folder))


def encoded(samples: Samples, container: str) -> bytes:
    """Samples at `OUTPUT_RATE` as a file of 16 bits, "WAV" or "FLAC"."""
    import soundfile

    data = io.BytesIO()
    values = np.clip(samples, -1.0, 1.0)
    soundfile.write(data, values, OUTPUT_RATE, format=container, subtype="PCM_16")
    return data.getvalue()
