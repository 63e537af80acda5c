"""Speech while it is generated: the first sound comes before the first sentence has its end.

Sound and codes are those of `Synthesizer.speak` with one take and without retries: what was heard
cannot be taken back, so problems are only reported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepaudio.generation.completion import Completion
from stepaudio.tasks.speech_prompt import SpeechJob
from stepaudio.tasks.speech_result import SpeechStats, SpokenSentence, SpokenText
from stepaudio.text.vocab import CODES_PER_GROUP

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio
    from stepaudio.tasks.tts import Script, Synthesizer


class SpeechTextStream:
    """Iterates over the sound of a text, float32 [samples] each; see `Synthesizer.stream`.

    Attributes:
        sample_rate: in Hz.
    """

    def __init__(self, synthesizer: Synthesizer, script: Script) -> None:
        self._synthesizer = synthesizer
        self._script = script
        self._sentences: list[SpokenSentence] = []
        self._parts: list[Tensor] = []
        self._stats = SpeechStats()
        self.sample_rate = synthesizer.sample_rate

    def __iter__(self) -> Iterator[Tensor]:
        """Generate; a stream can be iterated over once."""
        if self._parts or self._sentences:
            raise RuntimeError("this stream has already been read; make a new one")
        started, waited = time.perf_counter(), 0.0
        for samples in self._samples():
            if not len(samples):
                continue
            if self._stats.first_sound_s is None:
                self._stats.first_sound_s = time.perf_counter() - started - waited
            self._parts.append(samples)
            given = time.perf_counter()
            yield samples
            waited += time.perf_counter() - given

    @property
    def spoken(self) -> SpokenText:
        """What was spoken so far, with what is known about it."""
        num_samples = sum(map(len, self._parts))
        self._stats.speech_s = num_samples / self.sample_rate
        samples = torch.cat(self._parts) if self._parts else torch.zeros(0)
        return SpokenText(
            samples, self.sample_rate, tuple(self._sentences), self._script.style, self._stats
        )

    def _samples(self) -> Iterator[Tensor]:
        jobs = self._script.seeded_jobs()
        for index, (job, seed) in enumerate(jobs):
            yield from self._sentence(job, seed)
            if index < len(jobs) - 1:
                yield self._synthesizer.pause(job)

    def _sentence(self, job: SpeechJob, seed: int) -> Iterator[Tensor]:
        """Sound of one sentence; notes at its end what became of it."""
        synthesizer = self._synthesizer
        start_s = sum(map(len, self._parts)) / self.sample_rate
        stream = synthesizer.engine.stream(self._script.voice, seed=seed)
        completion = Completion()
        num_codes = 0
        for codes in _code_groups(synthesizer.model, job, seed, completion):
            num_codes += len(codes)
            started = time.perf_counter()
            samples = stream.push(codes)
            self._stats.vocode_s += time.perf_counter() - started
            yield samples
        if num_codes:
            started = time.perf_counter()
            samples = stream.finish()
            self._stats.vocode_s += time.perf_counter() - started
            yield samples
        take = synthesizer.take(job, completion, seed)
        self._stats.generation.add(completion.stats)
        self._sentences.append(
            SpokenSentence(job.sentence.text, take.codes, seed, 1, take.problems, start_s)
        )


def _code_groups(
    model: StepAudio, job: SpeechJob, seed: int, completion: Completion
) -> Iterator[list[int]]:
    """Audio codes as they are generated, four at a time; fills the completion in."""
    vocab, stats = model.tokenizer.vocab, completion.stats
    stats.prompt_tokens = len(job.prompt.ids)
    events = model.generator.stream(job.prompt, job.sampling(seed))
    codes: list[int] = []
    while True:
        started = time.perf_counter()
        event = next(events, None)
        seconds = time.perf_counter() - started
        if event is None:
            break
        if stats.tokens:
            stats.decode_s += seconds
            stats.passes += 1
        else:
            stats.prefill_s = seconds
        stats.tokens += 1
        completion.log_probs.append(event.log_prob)
        completion.finish_reason = event.finish_reason
        if event.finish_reason != "stop":
            completion.ids.append(event.token_id)
            codes += vocab.split_ids([event.token_id])[1]
        if len(codes) == CODES_PER_GROUP:
            yield codes
            codes = []
    if codes:
        yield codes
