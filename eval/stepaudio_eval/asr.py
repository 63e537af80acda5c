"""Speech recognition on manifests: word error rate and speed of one or several systems."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from stepaudio.audio.frames import PIECE_SAMPLES, SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.text.normalize import get_normalizer
from stepaudio.text.wer import word_error_rate

if TYPE_CHECKING:
    from stepaudio.tasks.recognizer import Decoding


class Recognizer(Protocol):
    """A system that turns short waveforms into text."""

    name: str

    def recognize(self, wavs: Sequence[Tensor]) -> list[str]:
        """Transcribe float32 waveforms [samples] at 16 kHz."""
        ...


@dataclass(frozen=True)
class SystemScore:
    """One system on one set.

    Attributes:
        system: its name.
        manifest: file name of the set.
        num_rows: recordings.
        audio_s: seconds of audio.
        words: words in the references.
        errors: substitutions, deletions and insertions.
        seconds: wall time of recognition, loading of audio excluded.
        texts: the hypotheses.
    """

    system: str
    manifest: str
    num_rows: int
    audio_s: float
    words: int
    errors: int
    seconds: float
    texts: tuple[str, ...]

    @property
    def wer(self) -> float:
        """Word error rate."""
        return self.errors / max(self.words, 1)

    @property
    def rtf(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / max(self.audio_s, 1e-9)


class StepAudioRecognizer:
    """Our own model."""

    def __init__(
        self,
        model: str,
        device: str = "auto",
        batch_size: int = 8,
        decoding: Decoding = "auto",
    ) -> None:
        from stepaudio.tasks.asr import Transcriber

        self.name = model if decoding == "auto" else f"{model} {decoding}"
        self._batch_size = batch_size
        self._transcriber = Transcriber.from_pretrained(model, device=device, decoding=decoding)

    def recognize(self, wavs: Sequence[Tensor]) -> list[str]:
        """Transcribe in batches of similar lengths; what exceeds one piece is cut at silence."""
        texts = [""] * len(wavs)
        for i, wav in enumerate(wavs):
            if len(wav) > PIECE_SAMPLES:
                texts[i] = self._transcriber.transcribe_samples(wav)
        order = [i for i in range(len(wavs)) if len(wavs[i]) <= PIECE_SAMPLES]
        order.sort(key=lambda i: len(wavs[i]))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            results = self._transcriber.transcribe_pieces([wavs[i] for i in chosen])
            for i, text in zip(chosen, results, strict=True):
                texts[i] = text
        return texts


class PocketsphinxRecognizer:
    """CMU pocketsphinx with the US English model that its package bundles."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def recognize(self, wavs: Sequence[Tensor]) -> list[str]:
        """Transcribe one after the other."""
        return [self._one(wav) for wav in wavs]

    def _one(self, wav: Tensor) -> str:
        pcm = (wav.clamp(-1, 1) * 32767).to(torch.int16).numpy()
        self._decoder.start_utt()
        self._decoder.process_raw(
            np.ascontiguousarray(pcm).tobytes(), no_search=False, full_utt=True
        )
        self._decoder.end_utt()
        best = self._decoder.hyp()
        return best.hypstr if best is not None else ""


def evaluate(
    recognizers: Sequence[Recognizer], manifest: Path, limit: int | None = None
) -> Iterator[SystemScore]:
    """Score every system on the same audio of one manifest, one after the other.

    Raises:
        ConfigError: the manifest is damaged.
        AudioLoadError: a recording cannot be read.
    """
    rows = read_manifest(manifest)[:limit]
    wavs = [load_audio(row.audio_filepath).samples for row in rows]
    audio_s = sum(len(wav) for wav in wavs) / SAMPLE_RATE
    for recognizer in recognizers:
        started = time.perf_counter()
        texts = recognizer.recognize(wavs)
        seconds = time.perf_counter() - started
        rate = word_error_rate(scored(rows, [r.text for r in rows]), scored(rows, texts))
        yield SystemScore(
            recognizer.name,
            manifest.name,
            len(rows),
            audio_s,
            rate.words,
            rate.errors,
            seconds,
            tuple(texts),
        )


def scored(rows: Sequence[ManifestRow], texts: Sequence[str]) -> list[str]:
    """Texts in the form in which they are compared."""
    return [
        get_normalizer(row.language or "en").for_scoring(text)
        for row, text in zip(rows, texts, strict=True)
    ]
