"""A model in this process: the realtime engine talks, the library does the rest.

Importing this module imports no torch: the page is up before the model is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudio.catalog import DEFAULT_VOICE, list_voices
from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine.engine import Loaded, StreamingEngine
from stepaudio_webui.backend import (
    BackendStatus,
    Samples,
    SpeakRequest,
    SpeechReport,
    State,
    TranscribeOptions,
)

if TYPE_CHECKING:
    from stepaudio.tasks.asr import Transcriber
    from stepaudio.tasks.step_audio import StepAudio
    from stepaudio.tasks.transcript import Transcript

PLACE = "this computer"
_SLOWLY, _QUICKLY = 0.93, 1.07  # from here on, a speed is a style


class LocalBackend:
    """See `Backend`; `start` begins to load, in the engine's thread.

    Args:
        model: name, folder or Hub id.
        device: where it runs.
        max_sessions: conversations at once.

    Attributes:
        engine: holds the conversations; not ready where the model cannot converse.
    """

    def __init__(self, model: str, *, device: str = "auto", max_sessions: int = 8) -> None:
        self._name = model
        self._device = device
        self._max_sessions = max_sessions
        self._model: Future[StepAudio] = Future()
        self._lock = threading.Lock()
        self.engine = StreamingEngine(self._load, name=model)
        self._conversing: Future[None] = Future()
        self._has_started = False

    def start(self) -> None:
        """Begin to load; a second call does nothing."""
        with self._lock:
            if not self._has_started:
                self._has_started = True
                self._conversing = self.engine.start()

    def stop(self) -> None:
        """End the conversations."""
        self.engine.stop()

    def status(self) -> BackendStatus:
        """See `Backend`."""
        state, problem = _outcome(self._model)
        chat, chat_problem = _outcome(self._conversing)
        known = BackendStatus(
            state=state,
            model=self._name,
            place=PLACE,
            problem=problem,
            chat=chat,
            chat_problem=chat_problem,
        )
        if state != "ready":
            return known
        model = self._model.result()
        return replace(known, modes=model.modes, voices=voices_of(model))

    def wait_ready(self) -> BackendStatus:
        """See `Backend`."""
        self._loaded()
        return self.status()

    def transcribe(self, path: Path, options: TranscribeOptions) -> Transcript:
        """See `Backend`."""
        from stepaudio.tasks.asr import Recording

        progress = options.on_progress
        with self.local_model() as model:
            model.require("asr")
            (outcome,) = self._transcriber.transcribe_many(
                [Recording(path, path.name)],
                on_progress=None if progress is None else lambda _, share: progress(share),
                hotwords=options.keywords or None,
            )
        if isinstance(outcome, StepAudioError):
            raise outcome
        return outcome

    def speak(self, request: SpeakRequest, report: SpeechReport | None = None) -> Iterator[Samples]:
        """See `Backend`."""
        with self.local_model() as model:
            model.require("tts")
            style = " ".join(filter(None, (request.instruction, _pace(request.speed))))
            stream = model.synthesizer.stream(
                request.text,
                voice=request.voice or None,
                instruction=style or None,
                seed=request.seed,
            )
        pieces = iter(stream)
        while True:
            # Not between the pieces: whoever takes them may be slow, or never come back.
            with self._lock:
                samples = next(pieces, None)
            if samples is None:
                break
            yield samples.numpy()
        if report is not None:
            spoken = stream.spoken
            report.sentences = tuple((part.text, part.codes) for part in spoken.sentences)
            report.warnings = (*filter(None, [spoken.style.warning]), *spoken.warnings)

    @contextmanager
    def local_model(self) -> Iterator[StepAudio]:
        """See `Backend`."""
        model = self._loaded()
        with self._lock:
            yield model

    def _loaded(self) -> StepAudio:
        self.start()
        error = self._model.exception()
        if error is None or isinstance(error, StepAudioError):
            return self._model.result()
        raise StepAudioError(_outcome(self._model)[1]) from error

    @cached_property
    def _transcriber(self) -> Transcriber:
        from stepaudio_streaming.serve import transcriber_of

        return transcriber_of(self._model.result())

    def _load(self) -> Loaded:
        """In the engine's thread: the model first, because more needs it than conversations."""
        try:
            import torch

            from stepaudio.tasks.step_audio import StepAudio
            from stepaudio_streaming.engine.loading import EngineOptions, load_engine
            from stepaudio_streaming.serve import serving_threads

            torch.set_num_threads(serving_threads())
            model = StepAudio.from_pretrained(self._name, device=self._device)
        except BaseException as error:
            self._model.set_exception(error)
            raise
        self._model.set_result(model)
        sessions = self._max_sessions
        return load_engine(
            model, EngineOptions(max_sessions=sessions, num_slots=sessions), name=self._name
        )


def voices_of(model: StepAudio) -> tuple[str, ...]:
    """Voices of this package that a model speaks with, the default first."""
    if "tts" not in model.modes:
        return ()
    known = list_voices()
    names = [name for name in model.config.speech.voices or known if name in known]
    return tuple(sorted(names, key=lambda name: name != DEFAULT_VOICE))


def _outcome(future: Future[Any]) -> tuple[State, str]:
    if not future.done():
        return "loading", ""
    error = future.exception()
    if error is None:
        return "ready", ""
    if isinstance(error, StepAudioError):
        return "failed", str(error)
    return "failed", f"The model could not be loaded: {error or type(error).__name__}"


def _pace(speed: float) -> str:
    if speed <= _SLOWLY:
        return "slowly"
    return "quickly" if speed >= _QUICKLY else ""
