"""A checkpoint as a `StreamingEngine`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.segmentation import VadOptions
from stepaudio.catalog import DEFAULT_VOICE, find_voice, list_voices
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.folder import SUBFOLDER, token2wav_folder
from stepaudio.models.token2wav.token2wav import SpeechVoice, Token2Wav
from stepaudio.tasks.listening import Listener
from stepaudio.tasks.recognizer import Recognizer
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.tasks.tts import Synthesizer
from stepaudio.text.word_model import WordModel
from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.engine import Loaded, StreamingEngine
from stepaudio_streaming.engine.hearing import Hear, encoding, transcribing
from stepaudio_streaming.engine.mind import TranscriptMind
from stepaudio_streaming.engine.parts import SpeechWish
from stepaudio_streaming.engine.runner import ModelRunner
from stepaudio_streaming.engine.session import Say
from stepaudio_streaming.engine.speech_mind import SpeechMind
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

_WARM_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a checkpoint is served.

    Attributes:
        max_sessions: at once.
        num_slots: lines that are decoded together; more wait for each other.
        max_tokens: of a line with its prompt; None: 1024 where what users say is written down,
            4096 where the model hears sound.
        max_window_s: sound that is written down in one go; longer takes others' time.
        max_read: tokens of a prompt that are read in one go.
    """

    max_sessions: int = 16
    num_slots: int = 16
    max_tokens: int | None = None
    max_window_s: float = 8.0
    max_read: int = 512


def streaming_engine(
    model: StepAudio, options: EngineOptions | None = None, *, name: str | None = None
) -> StreamingEngine:
    """Engine over a checkpoint; it is loaded and warm when its `start` is done.

    Args:
        model: the checkpoint; its weights may be read then.
        options: how it is served.
        name: under which it is served; None: its own.
    """
    shown = name or model.name

    def load() -> Loaded:
        return load_engine(model, options or EngineOptions(), name=shown)

    return StreamingEngine(load, name=shown)


def has_voice(model: StepAudio) -> bool:
    """Whether a checkpoint has what makes its audio codes sound; downloads it from the Hub."""
    if model.folder is None or (Path(model.folder) / SUBFOLDER).is_dir():
        return model.folder is not None
    if Path(model.name).is_dir():
        return False
    try:
        token2wav_folder(model.name)
    except CheckpointError:
        return False
    return True


def reads_aloud(model: StepAudio) -> bool:
    """Whether the engine speaks any text with a checkpoint."""
    writes_down = model.config.dialogue.hearing == "transcript"
    return writes_down and "tts" in model.modes and has_voice(model)


def check_conversational(model: StepAudio) -> None:
    """Make sure that a checkpoint can hold spoken conversations, before anything slow begins.

    Raises:
        ConfigError: it cannot; the message says what is missing.
    """
    writes_down = model.config.dialogue.hearing == "transcript"
    if ("chat" if writes_down else "voice_chat") not in model.modes:
        raise ConfigError(
            f"{model.name}: cannot be served, because it does not converse: it has the modes "
            f"{', '.join(model.modes)}; use nano or a checkpoint such as Step-Audio-2-mini"
        )
    if not (reads_aloud(model) if writes_down else has_voice(model)):
        raise ConfigError(
            f"{model.name}: cannot be served, because it does not speak: there is no folder "
            f"{SUBFOLDER} in {model.folder} that makes its audio tokens sound, or it does not read "
            "aloud; download the whole checkpoint"
        )


def load_engine(model: StepAudio, options: EngineOptions, *, name: str) -> Loaded:
    """Build the core over a checkpoint, and warm it.

    Args:
        model: the checkpoint; without a voice it only writes.
        options: how it is served.
        name: under which it is served.

    Raises:
        CheckpointError: the weights cannot be loaded.
        ConfigError: the parts of the checkpoint do not fit each other.
    """
    build = _transcripts if model.config.dialogue.hearing == "transcript" else _speech
    core, voices, can_read = build(model, options)
    warm_up(core, voices, can_read=can_read)
    return Loaded(core, EngineInfo(model=name, voices=voices, can_speak=bool(voices)))


def _transcripts(
    model: StepAudio, options: EngineOptions
) -> tuple[EngineCore, tuple[str, ...], bool]:
    """Engine of a model that writes down what it hears, and reads its answers aloud."""
    words = None if model.folder is None else WordModel.load(model.folder)
    listener = Listener(
        Recognizer(model.model, model.tokenizer, words, precision=model.precision),
        vad=VadOptions(max_window_samples=int(options.max_window_s * SAMPLE_RATE)),
    )
    synthesizer = model.synthesizer if reads_aloud(model) else None
    min_confidence = model.config.dialogue.min_confidence
    hear = transcribing(listener, model.config.audio_encoder_config.geometry, min_confidence)
    engine = None if synthesizer is None else synthesizer.engine
    max_tokens = min(options.max_tokens or 1024, model.config.max_position_embeddings)
    mind = TranscriptMind(model, synthesizer, max_tokens=max_tokens)
    voices = () if synthesizer is None else voice_names(model, synthesizer)
    runner = _runner(model, hear, engine, options, max_tokens)
    return EngineCore(runner, mind, max_sessions=options.max_sessions), voices, bool(voices)


def _speech(model: StepAudio, options: EngineOptions) -> tuple[EngineCore, tuple[str, ...], bool]:
    """Engine of a model that hears sound and speaks while it thinks."""
    engine = model.token2wav if has_voice(model) else None
    num_codes = model.tokenizer.vocab.num_codes
    if engine is not None and engine.flow.config.vocab_size < num_codes:
        raise ConfigError(
            f"{model.name}: the tokenizer has {num_codes} audio tokens, but {SUBFOLDER} speaks "
            f"only {engine.flow.config.vocab_size}: use the files of one checkpoint"
        )
    voices: dict[str, SpeechVoice] = {}
    if engine is not None:
        names = sorted(list_voices(), key=lambda name: name != DEFAULT_VOICE)
        voices = {name: engine.prepare_voice(find_voice(name)) for name in names}
    max_tokens = min(options.max_tokens or 4096, model.config.max_position_embeddings)
    mind = SpeechMind(model, voices, max_tokens=max_tokens)
    runner = _runner(model, encoding(model.generator), engine, options, max_tokens)
    return EngineCore(runner, mind, max_sessions=options.max_sessions), tuple(voices), False


def _runner(
    model: StepAudio,
    hear: Hear,
    engine: Token2Wav | None,
    options: EngineOptions,
    max_tokens: int,
) -> ModelRunner:
    return ModelRunner(
        model,
        hear,
        engine,
        num_slots=options.num_slots,
        max_tokens=max_tokens,
        max_read=options.max_read,
    )


def voice_names(model: StepAudio, synthesizer: Synthesizer) -> tuple[str, ...]:
    """Voices of a checkpoint that this package has, the default first; all are prepared."""
    known = list_voices()
    names = [name for name in model.config.speech.voices or known if name in known]
    names.sort(key=lambda name: name != DEFAULT_VOICE)
    for name in names:
        synthesizer.prepare_voice(name)
    return tuple(names)


def warm_up(core: EngineCore, voices: tuple[str, ...], *, can_read: bool) -> None:
    """Do once what sessions will do, so that the first of them does not wait for it."""
    modality: Modality = "audio" if voices else "text"
    voice = voices[0] if voices else ""
    reply = ReplyOptions(modality=modality, voice=voice, max_output_tokens=_WARM_TOKENS)
    settings = Configure(
        turn_detection=TurnDetection(), transcription=None, noise_reduction=None, reply=reply
    )
    noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
    core.open(-1, settings, lambda event: None)
    core.obey(-1, AppendAudio(noise), 0.0)
    core.obey(-1, CommitAudio("warm"), 0.0)
    core.obey(-1, Respond(response_id="heard", item_id="answer", options=reply), 0.0)
    core.obey(-1, Respond(response_id="asked", item_id="b", options=reply, context=()), 0.0)
    if can_read:
        core.obey(-1, Say("said", "One two three.", SpeechWish(voice)), 0.0)
    # Time stands still until there is too much sound ahead.
    while not (plan := core.step(0.0)).is_empty:
        del plan
    core.close(-1)
