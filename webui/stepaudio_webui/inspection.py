"""Runs a model once and keeps what happened inside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from stepaudio.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stepaudio.tasks.step_audio import StepAudio

Kind = Literal["text", "audio", "mark", "heard"]
MAX_SECONDS = 25.0  # one piece of the encoder; pictures of more show nothing
MAX_LETTERS = 400
_MEL_BINS = 80


@dataclass(frozen=True)
class Token:
    """One token of the layout.

    Attributes:
        kind: "text", "audio" (a code that is spoken), "mark" (a special token) or "heard" (a
            placeholder of what the encoder heard).
        label: what it says, or the number of its code.
        is_prompt: it was given; otherwise generated.
    """

    kind: Kind
    label: str
    is_prompt: bool


@dataclass
class Inspection:
    """What one run left behind.

    Attributes:
        title: what was done.
        result: the text that was heard or spoken.
        samples: float32 [samples] of the sound that was heard or made.
        sample_rate: in Hz.
        mel: log-mel [mels, frames] over the whole sound.
        codes: its audio tokens.
        codebook_size: how many codes there are.
        tokens: prompt and what was generated, in order.
        facts: names and values of lengths, in order.
        stages: names and seconds of what was done, in order.
    """

    title: str
    result: str = ""
    samples: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    sample_rate: int = 16_000
    mel: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1), np.float32))
    codes: tuple[int, ...] = ()
    codebook_size: int = 0
    tokens: tuple[Token, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Of the sound."""
        return len(self.samples) / self.sample_rate

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done in the block."""
        started = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - started


def inspect_hearing(model: StepAudio, path: Path) -> Inspection:
    """Let a recording be written down, step by step.

    Raises:
        AudioLoadError: it cannot be read, or is too short.
        ConfigError: it is too long for pictures, or the model writes nothing down.
        CapacityError: it does not fit the model.
    """
    from stepaudio.audio.mel import log_mel
    from stepaudio.tasks.hearing import hear, latents_of, read_samples
    from stepaudio.tasks.instructions import task_prompt
    from stepaudio.tasks.modes import DEFAULTS
    from stepaudio.tasks.recognizer import Recognizer
    from stepaudio.text.word_model import WordModel

    model.require("asr")
    run = Inspection("Heard")
    config = model.config.audio_encoder_config
    with run.stage("read the file"):
        wav, _ = read_samples(path)
    run.samples = wav.numpy()
    if run.duration_s > MAX_SECONDS:
        raise ConfigError(
            f"The recording is {run.duration_s:.0f} s long; pictures show {MAX_SECONDS:.0f} s at "
            "most. Cut it, or use the tab Transcribe."
        )
    with run.stage("log-mel"):
        mel = log_mel(wav, config.n_mels, floor=config.mel_floor)
    run.mel = mel.numpy()
    clips, parts = hear(wav, config.geometry, "audio")
    with run.stage("encoder"):
        latents, _ = latents_of(list(clips.values()), model.generator)
    _tokenize(run, model, wav)
    words = None if model.folder is None else WordModel.load(model.folder)
    (run.result,), (stats,) = Recognizer(model.model, model.tokenizer, words).recognize([wav])
    run.stages["read the prompt"] = stats.prefill_s
    run.stages["write the text" if words is None else "search words, judge"] = stats.decode_s
    prompt = task_prompt(
        model.template, model.variant, model.processor.prompts.asr, parts, DEFAULTS["asr"].answer
    )
    answer = model.tokenizer.encode(run.result)
    heard = {i for start, stop, _ in prompt.audio_spans for i in range(start, stop)}
    run.tokens = (
        *_tokens(model, prompt.ids, heard, is_prompt=True),
        *_tokens(model, answer, set(), is_prompt=False),
    )
    num_frames = sum(map(len, latents))
    per_second = num_frames / run.duration_s
    run.facts |= {
        "sound": f"{run.duration_s:.2f} s, {len(wav)} samples at {run.sample_rate // 1000} kHz",
        "log-mel": f"{run.mel.shape[1]} frames of {run.mel.shape[0]} bands",
        "encoder": f"{num_frames} latents of {latents[0].shape[-1]} numbers ({per_second:.1f}/s)",
        "prompt": f"{len(prompt.ids)} tokens, {len(heard)} of them heard",
        "answer": f"{len(answer)} tokens",
    }
    return run


def inspect_speaking(model: StepAudio, text: str, voice: str) -> Inspection:
    """Let a text be spoken, step by step.

    Raises:
        SpeechTextError: there is nothing to say.
        ConfigError: the text is too long for pictures, or the model cannot speak.
    """
    import torch

    from stepaudio.audio.mel import log_mel
    from stepaudio.audio.resample import resample
    from stepaudio.tasks.tts import Utterance

    model.require("tts")
    if len(text) > MAX_LETTERS:
        raise ConfigError(
            f"The text has {len(text)} letters; pictures show {MAX_LETTERS} at most. Shorten it, "
            "or use the tab Speak."
        )
    run = Inspection("Spoken", text)
    synthesizer = model.synthesizer
    run.sample_rate = synthesizer.sample_rate
    with run.stage("text to prompts"):
        script = synthesizer.script(Utterance(text, voice or None))
    tokens: list[Token] = []
    sound: list[Tensor] = []
    num_passes = 0
    run.stages |= {"audio tokens": 0.0, "tokens to sound": 0.0}
    for job, seed in script.seeded_jobs():
        (completion,) = model.generator.generate([job.prompt], job.sampling(seed))
        take = synthesizer.take(job, completion, seed)
        run.stages["audio tokens"] += completion.stats.total_s
        num_passes += completion.stats.passes
        started = time.perf_counter()
        sound.append(synthesizer.engine.synthesize(list(take.codes), script.voice, seed=seed))
        sound.append(synthesizer.pause(job))
        run.stages["tokens to sound"] += time.perf_counter() - started
        run.codes += take.codes
        tokens += _tokens(model, job.prompt.ids, set(), is_prompt=True)
        tokens += _tokens(model, completion.ids, set(), is_prompt=False)
    wav = torch.cat(sound)
    run.samples, run.tokens = wav.numpy(), tuple(tokens)
    run.mel = log_mel(resample(wav, run.sample_rate, 16_000), _MEL_BINS).numpy()
    run.codebook_size = model.tokenizer.vocab.num_codes
    num_text = sum(token.kind == "text" and not token.is_prompt for token in tokens)
    run.facts |= {
        "sentences": str(len(script.jobs)),
        "prompt": f"{sum(token.is_prompt for token in tokens)} tokens",
        "generated": f"{num_text} text and {len(run.codes)} audio tokens in {num_passes} passes",
        "sound": f"{run.duration_s:.2f} s at {run.sample_rate // 1000} kHz",
    }
    return run


def _tokenize(run: Inspection, model: StepAudio, wav: Tensor) -> None:
    """Audio tokens of a recording, where the checkpoint has a tokenizer of speech."""
    if "tts" not in model.modes:
        return
    engine = model.synthesizer.engine
    with run.stage("audio tokens"):
        codes = engine.tokenize(wav)
    run.codes = tuple(int(code) for code in codes)
    run.codebook_size = model.tokenizer.vocab.num_codes
    run.facts["audio tokens"] = f"{len(run.codes)} of {run.codebook_size} different ones"


def _tokens(
    model: StepAudio, ids: Sequence[int], heard: set[int], *, is_prompt: bool
) -> Iterator[Token]:
    vocab, tokenizer = model.tokenizer.vocab, model.tokenizer
    for index, token_id in enumerate(ids):
        if index in heard:
            yield Token("heard", "heard", is_prompt)
        elif vocab.is_audio(token_id):
            yield Token("audio", str(vocab.code_of(token_id)), is_prompt)
        elif tokenizer.added_token(token_id) is not None:
            yield Token("mark", tokenizer.decode([token_id], skip_special=False), is_prompt)
        else:
            yield Token("text", tokenizer.decode([token_id]), is_prompt)
