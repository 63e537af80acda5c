"""Speech recognition: recordings of any length to text with segments.

A recording is read in blocks, cut at silence into windows that the encoder can take, and the
windows of one or several recordings are transcribed in batches. Memory does not grow with the
length of a recording, apart from its text.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator as GeneratorType
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepaudio.audio.decoding import AudioSource, open_decoder
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import iter_audio_blocks
from stepaudio.audio.resample import resample
from stepaudio.audio.segmentation import (
    DEFAULT_VAD_OPTIONS,
    SpeechWindow,
    VadOptions,
    iter_speech_windows,
)
from stepaudio.audio.vad import VoiceActivityDetector, silero_detector
from stepaudio.errors import AudioLoadError, CapacityError, ConfigError, StepAudioError
from stepaudio.generation.stats import GenerationStats
from stepaudio.models.checkpoint import load_pretrained, pretrained_folder
from stepaudio.models.fused import Precision
from stepaudio.models.mtp import MultiTokenPredictor
from stepaudio.models.mtp_file import PREDICTOR_FILE, find_predictor, load_predictor
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.alignment import WordAligner
from stepaudio.tasks.expectations import NO_HOTWORDS
from stepaudio.tasks.jobs import Job, ProgressCallback, Recording, take_complete
from stepaudio.tasks.live import LiveTranscriber
from stepaudio.tasks.prefetch import prefetch
from stepaudio.tasks.recognizer import Decoding, Recognition, Recognizer, check_decoding
from stepaudio.tasks.transcript import Segment, Transcript, join_texts
from stepaudio.text.hotwords import Hotwords
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.word_model import WordModel

__all__ = ["DEFAULT_BATCH_SIZE", "ProgressCallback", "Recording", "Transcriber"]

DEFAULT_BATCH_SIZE = 8

_COMMON_RATE = 44_100  # Hz, of recordings that must be resampled
_POOLED_BATCHES = 4
_WAITING_WINDOWS = 4  # windows of one recording that wait for the model: up to 1.6 MB each


class Transcriber:
    """Transcribes with one model; build it once, use it for many recordings.

    Example:
        >>> from stepaudio import Transcriber
        >>> transcriber = Transcriber.from_pretrained("nano")  # doctest: +SKIP
        >>> transcriber.transcribe("speech.wav").text  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - parts and options, all by name
        self,
        model: StepAudio2ForCausalLM,
        tokenizer: TextTokenizer,
        *,
        words: WordModel | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        decoding: Decoding = "auto",
        vad: VadOptions = DEFAULT_VAD_OPTIONS,
        detector: VoiceActivityDetector[Any] | None = None,
        aligner: WordAligner | None = None,
        blocks: MultiTokenPredictor | None = None,
        hotwords: Hotwords = NO_HOTWORDS,
        precision: Precision = "float",
    ) -> None:
        """Prepare a loaded model.

        Args:
            model: model to transcribe with.
            tokenizer: its tokenizer.
            words: its word model, if it has one.
            batch_size: windows that are transcribed together.
            decoding: how tokens are chosen, see `Recognizer`.
            vad: how recordings are cut.
            detector: finds the speech; None: Silero.
            aligner: finds the times of the words; None: segments have no words.
            blocks: its prediction blocks, if it has any.
            hotwords: words and phrases to expect where a call names no others.
            precision: of the decoder's weights, see `Generator`.

        Raises:
            ConfigError: the model cannot decode in this way, or cannot hear a hotword.
        """
        self._recognizer = Recognizer(
            model, tokenizer, words, decoding, blocks=blocks, precision=precision
        )
        self._recognizer.check_hotwords(hotwords)
        self._hotwords = hotwords
        self._batch_size = batch_size
        self._vad = vad
        self._detector = detector or silero_detector()
        self._aligner = aligner

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "auto",
        batch_size: int = DEFAULT_BATCH_SIZE,
        decoding: Decoding = "auto",
        blocks: str | Path | None = None,
        word_timestamps: bool = False,
        hotwords: Hotwords | str | Iterable[str] = NO_HOTWORDS,
        precision: Precision = "float",
    ) -> Transcriber:
        """Load a model by name, folder or hub id.

        Args:
            model: name of an embedded model, folder, or id of a Hub repository.
            device: "cpu", "cuda", or "auto": a GPU where there is one.
            batch_size: windows that are transcribed together.
            decoding: how tokens are chosen, see `Recognizer`.
            blocks: file or folder of prediction blocks; None: those beside the model, if any.
            word_timestamps: also find the times of the words, with the model's own CTC head, or
                with nano's where it has none.
            hotwords: words and phrases to expect, such as names: a list, or a text in which commas
                separate them; `Hotwords` also says how firmly.
            precision: "int8": decode with int8 weights, on a CPU.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigError: its configuration is contradictory, it cannot decode in this way, it cannot
                hear a hotword, or there is no such device.
        """
        expected = Hotwords.parse(hotwords)
        words = None
        if decoding in ("auto", "words"):
            words = WordModel.load(pretrained_folder(model))
        check_decoding(decoding, words)
        blocks_path = None
        if decoding == "mtp" or (decoding == "auto" and words is None):
            blocks_path = find_predictor(pretrained_folder(model) if blocks is None else blocks)
            if blocks_path is None and (decoding == "mtp" or blocks is not None):
                raise ConfigError(
                    f"{blocks or model}: has no {PREDICTOR_FILE}: train prediction blocks with "
                    "`stepaudio-train run mtp`, or use greedy decoding"
                )
        loaded, tokenizer = load_pretrained(model, device=device)
        aligner = None
        if word_timestamps and loaded.config.audio_encoder_config.ctc_tokens:
            aligner = WordAligner(loaded)
        elif word_timestamps:
            aligner = WordAligner.from_pretrained("nano", device=device)
        transcriber = cls(
            loaded,
            tokenizer,
            words=words,
            batch_size=batch_size,
            decoding=decoding,
            aligner=aligner,
            blocks=None if blocks_path is None else load_predictor(blocks_path, loaded),
            hotwords=expected,
            precision=precision,
        )
        transcriber._warm_up()
        return transcriber

    def transcribe(
        self,
        source: AudioSource,
        *,
        name: str | None = None,
        hotwords: Hotwords | str | Iterable[str] | None = None,
    ) -> Transcript:
        """Transcribe a recording of any length.

        Args:
            source: path, bytes or file object of an audio file.
            name: what error messages call it; None: its path.
            hotwords: words and phrases to expect; None: those of this transcriber.

        Raises:
            AudioLoadError: it cannot be read.
            CapacityError: a window of it does not fit the model.
            ConfigError: the model cannot hear a hotword.
        """
        (outcome,) = self.transcribe_many([Recording(source, name)], hotwords=hotwords)
        if isinstance(outcome, StepAudioError):
            raise outcome
        return outcome

    def transcribe_many(
        self,
        recordings: Iterable[Recording],
        *,
        num_readers: int = 0,
        on_progress: ProgressCallback | None = None,
        hotwords: Hotwords | str | Iterable[str] | None = None,
    ) -> GeneratorType[Transcript | StepAudioError, None, None]:
        """Transcribe recordings of any lengths; batches span recordings.

        Args:
            recordings: taken one by one, some ahead of their turn.
            num_readers: threads that decode and cut the next recordings while the model works;
                0: none.
            on_progress: called in this thread whenever a recording has got further.
            hotwords: words and phrases to expect; None: those of this transcriber.

        Yields:
            One result for every recording, in order, as soon as it is there: its transcript, or
            the error that belongs to it alone (AudioLoadError, CapacityError).

        Raises:
            ConfigError: the model cannot hear a hotword.
        """
        expected = self._hotwords if hotwords is None else Hotwords.parse(hotwords)
        self._recognizer.check_hotwords(expected)
        jobs, theirs = tee(Job(index, recording) for index, recording in enumerate(recordings))
        readers = (partial(self._read, job, measure=on_progress is not None) for job in theirs)
        unfinished: deque[Job] = deque()
        pool: list[tuple[Job, SpeechWindow]] = []

        # Of so many windows, those of about the same length go through the model together.
        pool_size = self._batch_size * (_POOLED_BATCHES if self._batch_size > 1 else 1)

        def transcribe_pool() -> None:
            pool.sort(key=lambda pair: len(pair[1].samples))
            for first in range(0, len(pool), self._batch_size):
                batch = pool[first : first + self._batch_size]
                self._transcribe_batch(batch, expected)
                for job, window in batch:
                    if on_progress is not None and job.announced_s:
                        share = window.segment.stop_s / job.announced_s
                        on_progress(job.index, min(share, 1.0))
            pool.clear()

        with closing(
            prefetch(
                readers,
                num_threads=num_readers,
                ahead=num_readers + self._batch_size,
                depth=_WAITING_WINDOWS,
            )
        ) as feeds:
            for feed, job in zip(feeds, jobs, strict=False):
                unfinished.append(job)
                try:
                    for window in feed:
                        job.num_waiting += 1
                        pool.append((job, window))
                        if len(pool) == pool_size:
                            transcribe_pool()
                            yield from take_complete(unfinished)
                except AudioLoadError as error:
                    job.error = error
                job.ended = True
                if len(unfinished) >= pool_size:
                    transcribe_pool()
                yield from take_complete(unfinished)
        transcribe_pool()
        yield from take_complete(unfinished)

    def iter_segments(
        self,
        source: AudioSource,
        *,
        name: str | None = None,
        hotwords: Hotwords | str | Iterable[str] | None = None,
    ) -> Iterator[Segment]:
        """Transcribe a recording of any length, segment by segment, while it is being read.

        Args:
            source: path, bytes or file object of an audio file.
            name: what error messages call it; None: its path.
            hotwords: words and phrases to expect; None: those of this transcriber.

        Yields:
            The segments in order. Nothing is read before the first one is asked for, and at most a
            batch ahead of the one that is.

        Raises:
            AudioLoadError: it cannot be read; what was readable has been yielded.
            CapacityError: a window of it does not fit the model.
            ConfigError: the model cannot hear a hotword.
        """
        expected = self._hotwords if hotwords is None else Hotwords.parse(hotwords)
        job = Job(0, Recording(source, name))
        windows = self._read(job, measure=False)
        failure: AudioLoadError | None = None
        while failure is None:
            batch: list[tuple[Job, SpeechWindow]] = []
            try:
                for window in islice(windows, self._batch_size):
                    batch.append((job, window))
            except AudioLoadError as error:
                failure = error
            if not batch and failure is None:
                return
            if batch:
                self._transcribe_batch(batch, expected)
            if job.error is not None:
                raise job.error
            yield from job.segments
            job.segments.clear()
        raise failure

    def live(self, *, hotwords: Hotwords | str | Iterable[str] | None = None) -> LiveTranscriber:
        """Transcribe sound while it comes in.

        Args:
            hotwords: words and phrases to expect; None: those of this transcriber.

        Raises:
            ConfigError: the model cannot hear a hotword.
        """
        expected = self._hotwords if hotwords is None else Hotwords.parse(hotwords)
        return LiveTranscriber(self._recognizer, self._detector, hotwords=expected)

    def transcribe_pieces(self, wavs: Sequence[Tensor]) -> list[str]:
        """Transcribe short waveforms (float32 [samples] at 16 kHz, at most 25 s) as they are.

        Raises:
            ValueError: a waveform is longer than one piece.
            CapacityError: a waveform does not fit the model's context.
        """
        return self._recognizer.recognize(wavs, self._hotwords)[0]

    def transcribe_samples(self, wav: Tensor) -> str:
        """Transcribe a waveform (float32 [samples] at 16 kHz) of any length.

        Raises:
            CapacityError: a window of it does not fit the model's context.
        """
        windows = iter_speech_windows([wav], self._detector, self._vad)
        texts: list[str] = []
        while batch := list(islice(windows, self._batch_size)):
            texts += self.transcribe_pieces([window.samples for window in batch])
        return join_texts([text for text in texts if text])

    def _warm_up(self) -> None:
        """Do once what is slow the first time, so that no recording pays for it."""
        second = torch.zeros(SAMPLE_RATE)
        resample(second, _COMMON_RATE, SAMPLE_RATE)
        self._recognizer.recognize([second])

    def _read(self, job: Job, *, measure: bool) -> Iterator[SpeechWindow]:
        """Windows of a recording; notes its length and the time that reading takes."""
        source = job.recording.source
        started = time.perf_counter()
        # A pipe can be opened only once.
        if measure and isinstance(source, str | Path) and os.path.isfile(source):
            with open_decoder(source, name=job.name) as stream:
                job.announced_s = (stream.num_samples or 0) / stream.sample_rate
        num_samples = 0

        def blocks() -> Iterator[Tensor]:
            nonlocal num_samples
            for block in iter_audio_blocks(source, name=job.name):
                num_samples += len(block)
                yield block

        try:
            for window in iter_speech_windows(blocks(), self._detector, self._vad):
                job.read_s += time.perf_counter() - started
                yield window
                started = time.perf_counter()
        except OSError as error:  # a source other than a regular file
            raise AudioLoadError(f"{job.name}: cannot be read: {error.strerror}") from error
        job.duration_s = num_samples / SAMPLE_RATE
        job.read_s += time.perf_counter() - started

    def _transcribe_batch(
        self, batch: Sequence[tuple[Job, SpeechWindow]], hotwords: Hotwords
    ) -> None:
        """Add the segments of windows to their recordings."""
        wavs = [window.samples for _, window in batch]
        try:
            found = self._recognizer.recognize_scored(wavs, hotwords)
        except (CapacityError, torch.OutOfMemoryError) as error:
            if len(batch) > 1:
                for one in batch:
                    self._transcribe_batch([one], hotwords)
                return
            job, _ = batch[0]
            job.num_waiting -= 1
            job.error = CapacityError(f"{job.name}: {error}")
            return
        for (job, window), result in zip(batch, found, strict=True):
            job.num_waiting -= 1
            job.stats.add(result.stats)
            if result.text:
                job.segments.append(self._segment(window, result, job.stats))

    def _segment(self, window: SpeechWindow, found: Recognition, stats: GenerationStats) -> Segment:
        """Segment of a window, with its words if they are wanted; adds their cost."""
        start_s, stop_s = round(window.segment.start_s, 3), round(window.segment.stop_s, 3)
        segment = Segment(start_s, stop_s, found.text, confidence=round(found.confidence, 3))
        if self._aligner is None:
            return segment
        started = time.perf_counter()
        words = self._aligner.align(window.samples, found.text)
        stats.encode_s += time.perf_counter() - started
        return replace(segment, words=tuple(word.shifted(start_s) for word in words))
