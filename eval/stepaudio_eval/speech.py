"""Speech output on held-out sentences: how well others understand it, and how near it comes.

Three kinds of sound of the same sentences are compared: the recording ("natural"), the recording
through audio tokens and back ("resynth"), and the sentence read aloud ("tts").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.audio.resample import resample
from stepaudio.errors import ConfigError
from stepaudio.tasks.tts import Synthesizer
from stepaudio.text.manifest import ManifestRow
from stepaudio.text.wer import word_error_rate
from stepaudio_eval.asr import Recognizer, scored

Kind = Literal["natural", "resynth", "tts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_WARM_UP = "one two three"


@dataclass
class SpeechSet:
    """Sounds of one kind.

    Attributes:
        kind: which.
        wavs: float32 [samples] at `sample_rate`, one for each row.
        sample_rate: in Hz.
        seconds: of computing.
        problems: sentences whose speech was found to be faulty behind the retry.
        codes: audio codes of every row.
    """

    kind: Kind
    sample_rate: int
    wavs: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    problems: int = 0
    codes: list[Sequence[int]] = field(default_factory=list)

    @property
    def audio_s(self) -> float:
        """Seconds of sound."""
        return sum(len(wav) for wav in self.wavs) / self.sample_rate

    def heard(self) -> list[Tensor]:
        """The sounds at 16 kHz, as recognisers take them."""
        return [resample(wav, self.sample_rate, SAMPLE_RATE) for wav in self.wavs]


@dataclass(frozen=True)
class SpeechScore:
    """One kind of sound, judged.

    Attributes:
        kind: of the sound.
        num_rows: sentences.
        audio_s: seconds of sound.
        rtf: seconds of computing for one of sound; 0 for recordings.
        problems: faulty sentences behind the retry.
        wer: word error rate by recogniser.
        mos: mean of DNSMOS's overall score, None where it is not installed.
        mel_distance: mean absolute difference of log-mels from the recordings, None without.
        stoi: short-time objective intelligibility against the recordings, None without.
        codebook_use: share of the codes that occur, None for recordings.
    """

    kind: Kind
    num_rows: int
    audio_s: float
    rtf: float
    problems: int
    wer: dict[str, float]
    mos: float | None
    mel_distance: float | None
    stoi: float | None
    codebook_use: float | None


def speech_sets(
    synthesizer: Synthesizer,
    rows: Sequence[ManifestRow],
    kinds: Sequence[Kind],
    *,
    voice: str | None = None,
    seed: int = 0,
) -> Iterator[SpeechSet]:
    """Make the sounds, kind by kind, with a progress bar.

    Args:
        synthesizer: the model.
        rows: held-out sentences, with recordings unless only "tts" is asked for.
        kinds: what to make.
        voice: of "resynth" and "tts"; None: the default voice.
        seed: of all speech.

    Raises:
        AudioLoadError: a recording cannot be read.
        VoiceError: the voice cannot be used.
    """
    synthesizer.speak(_WARM_UP, voice=voice)  # loads the weights
    makers: dict[Kind, Callable[[SpeechSet, ManifestRow], Tensor]] = {
        "natural": lambda _, row: (
            load_audio(row.audio_filepath, sample_rate=synthesizer.sample_rate).samples
        ),
        "resynth": lambda made, row: _resynthesise(made, row, synthesizer, voice, seed),
        "tts": lambda made, row: _read(made, row, synthesizer, voice, seed),
    }
    for kind in kinds:
        made = SpeechSet(kind, synthesizer.sample_rate)
        for row in tqdm(rows, desc=kind, unit="sentence", disable=None):
            made.wavs.append(makers[kind](made, row))
        yield made


def _resynthesise(
    made: SpeechSet, row: ManifestRow, synthesizer: Synthesizer, voice: str | None, seed: int
) -> Tensor:
    wav = load_audio(row.audio_filepath).samples
    prepared = synthesizer.prepare_voice(voice)
    started = time.perf_counter()
    codes = synthesizer.engine.tokenize(wav)
    spoken = synthesizer.engine.synthesize(codes, prepared, seed=seed)
    made.seconds += time.perf_counter() - started
    made.codes.append(codes.tolist())
    return spoken


def _read(
    made: SpeechSet, row: ManifestRow, synthesizer: Synthesizer, voice: str | None, seed: int
) -> Tensor:
    started = time.perf_counter()
    spoken = synthesizer.speak(row.text, voice=voice, seed=seed)
    made.seconds += time.perf_counter() - started
    made.problems += sum(bool(sentence.problems) for sentence in spoken.sentences)
    made.codes.append([code for sentence in spoken.sentences for code in sentence.codes])
    return spoken.samples


def score_speech(
    made: SpeechSet,
    rows: Sequence[ManifestRow],
    recognizers: Sequence[Recognizer],
    synthesizer: Synthesizer,
    natural: SpeechSet | None = None,
) -> SpeechScore:
    """Judge one kind of sound.

    Args:
        made: the sound.
        rows: what was to be said.
        recognizers: who listens.
        synthesizer: gives mel and codebook.
        natural: the recordings that resynthesised sound is compared with.
    """
    heard = made.heard()
    references = scored(rows, [row.text for row in rows])
    wer = {
        recognizer.name: word_error_rate(references, scored(rows, recognizer.recognize(heard))).rate
        for recognizer in recognizers
    }
    near = made.kind == "resynth" and natural is not None
    encoders = synthesizer.engine.voices.encoders
    used = {code for codes in made.codes for code in codes}
    return SpeechScore(
        made.kind,
        len(rows),
        made.audio_s,
        made.seconds / made.audio_s if made.audio_s else 0.0,
        made.problems,
        wer,
        mean_opinion(heard),
        _mean(mel_distances(natural, made, encoders.mel)) if near and natural else None,
        _mean(intelligibility(natural, made)) if near and natural else None,
        len(used) / encoders.tokenizer.codebook_size if used else None,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def mel_distances(
    natural: SpeechSet, made: SpeechSet, mel: Callable[[Tensor], Tensor]
) -> list[float]:
    """Mean absolute difference of log-mels, recording by recording, over their common length."""
    distances = []
    for reference, wav in zip(natural.wavs, made.wavs, strict=True):
        size = min(len(reference), len(wav))
        distances.append(float(F.l1_loss(mel(wav[:size]), mel(reference[:size]))))
    return distances


def intelligibility(natural: SpeechSet, made: SpeechSet) -> list[float]:
    """Short-time objective intelligibility (Taal et al. 2011), recording by recording.

    Raises:
        ConfigError: the package pystoi is not installed.
    """
    try:
        from pystoi import stoi
    except ImportError as error:
        raise ConfigError("STOI needs the package pystoi: pip install pystoi") from error
    scores = []
    for reference, wav in zip(natural.heard(), made.heard(), strict=True):
        size = min(len(reference), len(wav))
        scores.append(float(stoi(reference[:size].numpy(), wav[:size].numpy(), SAMPLE_RATE)))
    return scores


def mean_opinion(wavs: Sequence[Tensor]) -> float | None:
    """Mean overall score of DNSMOS P.835, with the weights of the package speechmos.

    Returns:
        1 to 5; None where the package is not installed.
    """
    try:
        from speechmos import dnsmos
    except ImportError:
        return None
    values = [dnsmos.run(_float(wav), SAMPLE_RATE)["ovrl_mos"] for wav in wavs]
    return _mean([float(value) for value in values])


def _float(wav: Tensor) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = wav.clamp(-1.0, 1.0).to(torch.float32).numpy()
    return samples


def save_figure(path: Path, sets: Sequence[SpeechSet], index: int, title: str) -> None:
    """Draw waveform and spectrogram of one sentence, kind beside kind.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("pictures need the package matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(sets), figsize=(5 * len(sets), 5), squeeze=False, height_ratios=(1, 2)
    )
    for column, made in enumerate(sets):
        wav, rate = made.wavs[index].numpy(), made.sample_rate
        wave, spectrum = axes[0, column], axes[1, column]
        wave.plot(np.arange(len(wav)) / rate, wav, linewidth=0.4)
        wave.set(title=made.kind, ylim=(-1, 1), xlim=(0, len(wav) / rate))
        spectrum.specgram(wav + 1e-6, NFFT=1024, noverlap=768, Fs=rate, vmin=-140, vmax=-30)
        spectrum.set(xlabel="seconds", ylabel="Hz" if column == 0 else "", ylim=(0, rate / 2))
    figure.suptitle(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
