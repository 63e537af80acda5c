"""A checkpoint as a `StreamingEngine`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.segmentation import VadOptions
from stepaudio.catalog import DEFAULT_VOICE, list_voices
from stepaudio.errors import ConfigError
from stepaudio.tasks.listening import Listener
from stepaudio.tasks.recognizer import Recognizer
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.tasks.tts import Synthesizer
from stepaudio.text.word_model import WordModel
from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.engine import Loaded, StreamingEngine
from stepaudio_streaming.engine.hearing import transcribing
from stepaudio_streaming.engine.mind import TranscriptMind
from stepaudio_streaming.engine.parts import SpeechWish
from stepaudio_streaming.engine.runner import ModelRunner
from stepaudio_streaming.engine.session import Say
from stepaudio_streaming.engine_api import EngineInfo
from stepaudio_streaming.events import (
    AppendAudio,
    CommitAudio,
    Configure,
    Modality,
    ReplyOptions,
    Respond,
    TurnDetection,
)

_TOKEN2WAV = "token2wav"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a checkpoint is served.

    Attributes:
        max_sessions: at once.
        num_slots: lines that are decoded together; more wait for each other.
        max_tokens: of a line with its prompt.
        max_window_s: sound that is understood in one go; longer takes others' time.
    """

    max_sessions: int = 16
    num_slots: int = 16
    max_tokens: int = 1024
    max_window_s: float = 8.0


def streaming_engine(
    model: StepAudio, options: EngineOptions | None = None, *, name: str | None = None
) -> StreamingEngine:
    """Engine over a loaded checkpoint; it is warm when its `start` is done.

    Args:
        model: the checkpoint.
        options: how it is served.
        name: under which it is served; None: its own.
    """
    shown = name or model.name

    def load() -> Loaded:
        return load_engine(model, options or EngineOptions(), name=shown)

    return StreamingEngine(load, name=shown)


def load_engine(model: StepAudio, options: EngineOptions, *, name: str) -> Loaded:
    """Build the core over a loaded checkpoint with the voice that it has, and warm it.

    Arguments and errors as `build_engine`; the thread that calls it is the engine's.
    """
    speaks = "tts" in model.modes and model.folder is not None
    has_voice = speaks and (Path(str(model.folder)) / _TOKEN2WAV).is_dir()
    synthesizer = model.synthesizer if has_voice else None
    return build_engine(model, synthesizer, options, name=name)


def build_engine(
    model: StepAudio, synthesizer: Synthesizer | None, options: EngineOptions, *, name: str
) -> Loaded:
    """Build the core over a loaded checkpoint, and warm it.

    Args:
        model: the checkpoint.
        synthesizer: reads aloud; None: answers are texts.
        options: how it is served.
        name: under which it is served.

    Raises:
        ConfigError: conversations with this kind of checkpoint are not served yet.
    """
    dialogue = model.config.dialogue
    if dialogue.hearing != "transcript":
        raise ConfigError(f"{name}: realtime sessions need dialogue.hearing 'transcript'")
    words = None if model.folder is None else WordModel.load(model.folder)
    listener = Listener(
        Recognizer(model.model, model.tokenizer, words),
        vad=VadOptions(max_window_samples=int(options.max_window_s * SAMPLE_RATE)),
    )
    geometry = model.config.audio_encoder_config.geometry
    max_tokens = min(options.max_tokens, model.config.max_position_embeddings)
    runner = ModelRunner(
        model,
        transcribing(listener, geometry, dialogue.min_confidence),
        None if synthesizer is None else synthesizer.engine,
        num_slots=options.num_slots,
        max_tokens=max_tokens,
    )
    voices = () if synthesizer is None else voice_names(model, synthesizer)
    core = EngineCore(
        runner,
        TranscriptMind(model, synthesizer, max_tokens=max_tokens),
        max_sessions=options.max_sessions,
    )
    warm_up(core, voices)
    return Loaded(core, EngineInfo(model=name, voices=voices, can_speak=bool(voices)))


def voice_names(model: StepAudio, synthesizer: Synthesizer) -> tuple[str, ...]:
    """Voices of a checkpoint that this package has, the default first; all are prepared."""
    known = list_voices()
    names = [name for name in model.config.speech.voices or known if name in known]
    names.sort(key=lambda name: name != DEFAULT_VOICE)
    for name in names:
        synthesizer.prepare_voice(name)
    return tuple(names)


def warm_up(core: EngineCore, voices: tuple[str, ...]) -> None:
    """Do once what sessions will do, so that the first of them does not wait for it."""
    modality: Modality = "audio" if voices else "text"
    reply = ReplyOptions(modality=modality, voice=voices[0] if voices else "")
    settings = Configure(
        turn_detection=TurnDetection(), transcription=None, noise_reduction=None, reply=reply
    )
    noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
    core.open(-1, settings, lambda event: None)
    core.obey(-1, AppendAudio(noise), 0.0)
    core.obey(-1, CommitAudio("warm"), 0.0)
    core.obey(-1, Respond(response_id="heard", item_id="answer", options=reply), 0.0)
    core.obey(-1, Respond(response_id="asked", item_id="b", options=reply, context=()), 0.0)
    if voices:
        core.obey(-1, Say("said", "One two three.", SpeechWish(voices[0])), 0.0)
    # Time stands still until there is too much sound ahead.
    while not (plan := core.step(0.0)).is_empty:
        del plan
    core.close(-1)
