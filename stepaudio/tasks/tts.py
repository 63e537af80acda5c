"""Text to speech: sentences to audio codes, checked, and codes to sound.

synthesizer = Synthesizer.from_pretrained("nano")
spoken = synthesizer.speak("It is ten past nine.", voice="kathleen")
save_audio("out.wav", spoken.samples, spoken.sample_rate)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepaudio.catalog import DEFAULT_VOICE, find_voice, list_voices
from stepaudio.errors import StepAudioError
from stepaudio.generation.completion import Completion
from stepaudio.generation.stats import GenerationStats
from stepaudio.models.token2wav.token2wav import SpeechVoice, Token2Wav
from stepaudio.tasks.speech_check import SpeechProblem, badness, check_speech
from stepaudio.tasks.speech_judge import SpeechJudge
from stepaudio.tasks.speech_options import SpeechOptions
from stepaudio.tasks.speech_prompt import SpeechJob, SpeechPrompter
from stepaudio.tasks.speech_result import SpeechStats, SpokenSentence, SpokenText
from stepaudio.tasks.speech_stream import SpeechTextStream
from stepaudio.tasks.speech_style import SpeechStyle, read_style

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio

_SEED_BYTES = 7  # below 2**63, as the noise of the flow wants
_BATCHES_AHEAD = 2  # so that the slots of finished sentences are filled again


@dataclass(frozen=True)
class NamedVoice(SpeechVoice):
    """A prepared voice of this package.

    Attributes:
        name: what the list of voices and prompts call it.
    """

    name: str


@dataclass(frozen=True)
class Utterance:
    """What to say and how.

    Attributes:
        text: anything.
        voice: name of a voice of this package, path of a recording, or a prepared voice; None:
            the default voice.
        instruction: style, such as "slowly".
        seed: the same seed gives the same speech.
    """

    text: str
    voice: str | Path | SpeechVoice | None = None
    instruction: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Take:
    """One attempt at a sentence.

    Attributes:
        codes: audio codes.
        seed: it was sampled with.
        problems: what is wrong with it.
    """

    codes: tuple[int, ...]
    seed: int
    problems: tuple[SpeechProblem, ...]


@dataclass(frozen=True)
class Script:
    """An utterance, ready to be generated.

    Attributes:
        voice: what speaks.
        style: what became of the instruction.
        seed: of the utterance.
        jobs: its sentences.
    """

    voice: SpeechVoice
    style: SpeechStyle
    seed: int
    jobs: tuple[SpeechJob, ...]

    def seeded_jobs(self) -> list[tuple[SpeechJob, int]]:
        """The sentences, each with a seed of its own."""
        return [(job, sentence_seed(self.seed, index)) for index, job in enumerate(self.jobs)]


class Synthesizer:
    """Speaks texts with one checkpoint; it keeps no state of requests.

    Attributes:
        model: text to audio codes.
        engine: audio codes to sound.
        options: how texts are spoken.
    """

    def __init__(
        self, model: StepAudio, engine: Token2Wav, options: SpeechOptions | None = None
    ) -> None:
        """Join what generates audio codes and what makes them sound.

        Args:
            model: the checkpoint.
            engine: its detokenizer.
            options: how texts are spoken.

        Raises:
            ConfigError: the checkpoint cannot read aloud, or cannot choose between takes.
        """
        self.engine = engine
        self.options = options or SpeechOptions()
        self.model = model
        self._prompter = SpeechPrompter(model, self.options)
        wanted = self.options.takes
        self._takes = self._prompter.config.takes if wanted is None else wanted
        self._judge = SpeechJudge(model) if self._takes > 1 else None
        self._voices: dict[str, SpeechVoice] = {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        revision: str | None = None,
        options: SpeechOptions | None = None,
    ) -> Synthesizer:
        """Load a checkpoint and its detokenizer.

        Args:
            source: name of an embedded model, folder, or id of a Hub repository.
            device: where to load to; "auto": a GPU where there is one.
            revision: branch, tag or commit of a repository.
            options: how texts are spoken.

        Raises:
            CheckpointError: files are missing or damaged.
            ConfigError: the checkpoint cannot read aloud, or a configuration is contradictory.
        """
        from stepaudio.tasks.step_audio import StepAudio

        model = StepAudio.from_pretrained(source, device=device, revision=revision, lazy=True)
        SpeechPrompter(model, options or SpeechOptions())  # before anything slow begins
        engine = Token2Wav.from_pretrained(source, device=device, revision=revision)
        return cls(model, engine, options)

    @property
    def sample_rate(self) -> int:
        """Of the sound in Hz."""
        return self.engine.sample_rate

    def prepare_voice(self, voice: str | Path | SpeechVoice | None = None) -> SpeechVoice:
        """Voice by its name, from a recording, or as it was prepared before; None: the default.

        Raises:
            AudioLoadError: the recording cannot be read.
            VoiceError: there is no such voice, or the recording cannot serve as one.
        """
        if isinstance(voice, SpeechVoice):
            return voice
        name = str(voice or DEFAULT_VOICE)
        if name not in self._voices:
            prepared = self.engine.prepare_voice(find_voice(name))
            if name in list_voices() and not Path(name).exists():
                prepared = NamedVoice(prepared.mel, name)
            self._voices[name] = prepared
        return self._voices[name]

    def speak(
        self,
        text: str,
        *,
        voice: str | Path | SpeechVoice | None = None,
        instruction: str | None = None,
        seed: int = 0,
    ) -> SpokenText:
        """Speak a text of any length.

        Args:
            text: what to say; sentences that turn out badly are generated again.
            voice: see `Utterance`.
            instruction: see `Utterance`; `SpokenText.style` tells what became of it.
            seed: see `Utterance`.

        Raises:
            SpeechTextError: nothing in the text can be said.
            AudioLoadError: the voice's recording cannot be read.
            VoiceError: there is no such voice, or it cannot be used.
            CapacityError: a sentence does not fit the model.
        """
        (spoken,) = self.speak_many([Utterance(text, voice, instruction, seed)])
        if isinstance(spoken, StepAudioError):
            raise spoken
        return spoken

    def speak_many(self, utterances: Iterable[Utterance]) -> Iterator[SpokenText | StepAudioError]:
        """Speak texts; their sentences are generated together.

        Yields:
            One result for every utterance, in order: its sound, or the error that belongs to it
            alone (errors as `speak`).
        """
        waiting: list[Script | StepAudioError] = []
        num_jobs = 0
        for utterance in utterances:
            script = self._script_or_error(utterance)
            waiting.append(script)
            num_jobs += len(script.jobs) if isinstance(script, Script) else 0
            if num_jobs >= _BATCHES_AHEAD * self.options.batch_size:
                yield from self._speak_scripts(waiting)
                waiting, num_jobs = [], 0
        yield from self._speak_scripts(waiting)

    def stream(
        self,
        text: str,
        *,
        voice: str | Path | SpeechVoice | None = None,
        instruction: str | None = None,
        seed: int = 0,
    ) -> SpeechTextStream:
        """Speak a text, and give its sound as soon as it is there.

        Arguments and errors as `speak`; nothing is generated again, because what was heard cannot
        be taken back. ``stream.spoken`` has the rest of the result, problems included.
        """
        return SpeechTextStream(self, self.script(Utterance(text, voice, instruction, seed)))

    def script(self, utterance: Utterance) -> Script:
        """Prepare an utterance; errors as `speak`."""
        sentences = self._prompter.sentences(utterance.text)
        style = read_style(utterance.instruction, self._prompter.config.styles)
        voice = self.prepare_voice(utterance.voice)
        named = voice.name if isinstance(voice, NamedVoice) else None
        if named not in self._prompter.config.voices:
            named = None
        jobs = tuple(self._prompter.job(sentence, named, style) for sentence in sentences)
        return Script(voice, style, utterance.seed, jobs)

    def take(self, job: SpeechJob, completion: Completion, seed: int) -> Take:
        """What an attempt has become."""
        _, codes = self.model.tokenizer.vocab.split_ids(completion.ids)
        problems = check_speech(
            codes,
            job.expected_s,
            finish_reason=completion.finish_reason,
            log_probs=self._prompter.code_log_probs(completion),
            options=self.options.checks,
        )
        return Take(tuple(codes), seed, problems)

    def pause(self, job: SpeechJob) -> Tensor:
        """Silence behind a sentence, float32 [samples]."""
        seconds = self.options.pauses.get(job.sentence.pause, 0.0)
        return torch.zeros(round(seconds * self.sample_rate))

    def _script_or_error(self, utterance: Utterance) -> Script | StepAudioError:
        try:
            return self.script(utterance)
        except StepAudioError as error:
            return error

    def _speak_scripts(
        self, scripts: Sequence[Script | StepAudioError]
    ) -> Iterator[SpokenText | StepAudioError]:
        ready = [script for script in scripts if isinstance(script, Script)]
        attempts = iter(self._generate([job for script in ready for job in script.seeded_jobs()]))
        for script in scripts:
            if isinstance(script, Script):
                yield self._vocode(script, [next(attempts) for _ in script.jobs])
            else:
                yield script

    def _generate(self, jobs: Sequence[tuple[SpeechJob, int]]) -> list[_Attempts]:
        """Generate sentences, and again those of which every take has problems."""
        results = [_Attempts() for _ in jobs]
        pending = [index for index in range(len(jobs)) for _ in range(self._takes)]
        for retry in range(self.options.retries + 1):
            self._attempt(jobs, pending, results, retry * self.options.warming)
            pending = [index for index, made in enumerate(results) if made.best[0].problems]
            if not pending:
                break
        return results

    def _attempt(
        self,
        jobs: Sequence[tuple[SpeechJob, int]],
        pending: Sequence[int],
        results: Sequence[_Attempts],
        warmer: float,
    ) -> None:
        """Generate a take of each pending sentence, of some several."""
        num_takes = [len(made.takes) for made in results]
        seeds = []
        for index in pending:
            seeds.append(attempt_seed(jobs[index][1], num_takes[index]))
            num_takes[index] += 1
        completions = self.model.generator.generate(
            [jobs[index][0].prompt for index in pending],
            [
                jobs[index][0].sampling(seed, warmer)
                for index, seed in zip(pending, seeds, strict=True)
            ],
            num_slots=self.options.batch_size,
        )
        for index, completion, seed in zip(pending, completions, seeds, strict=True):
            results[index].add(self.take(jobs[index][0], completion, seed), completion.stats)

    def _sound(
        self, job: SpeechJob, made: _Attempts, voice: SpeechVoice
    ) -> tuple[Take, Tensor | None]:
        """The take that is kept, and its sound."""
        heard: list[tuple[float, Take, Tensor | None]] = []
        for take in made.best:
            codes, seed = take.codes, take.seed
            wav = self.engine.synthesize(codes, voice, seed=seed) if codes else None
            if self._judge is None or wav is None or len(made.best) == 1:
                return take, wav
            loss = self._judge.loss(wav, self.sample_rate, job.sentence.words)
            heard.append((loss, take, wav))
        _, take, wav = min(heard, key=lambda entry: entry[0])
        return take, wav

    def _vocode(self, script: Script, attempts: Sequence[_Attempts]) -> SpokenText:
        stats = SpeechStats()
        parts: list[Tensor] = []
        sentences: list[SpokenSentence] = []
        num_samples = 0
        started = time.perf_counter()
        for job, made in zip(script.jobs, attempts, strict=True):
            take, wav = self._sound(job, made, script.voice)
            start_s = num_samples / self.sample_rate
            sentences.append(made.sentence(job, take, start_s))
            silence = self.pause(job) if job is not script.jobs[-1] else None
            new = [part for part in (wav, silence) if part is not None]
            num_samples += sum(map(len, new))
            parts += new
            stats.generation.add(made.stats)
            stats.retries += len(made.takes) - self._takes
        stats.vocode_s = time.perf_counter() - started
        stats.speech_s = num_samples / self.sample_rate
        samples = torch.cat(parts) if parts else torch.zeros(0)
        return SpokenText(samples, self.sample_rate, tuple(sentences), script.style, stats)


@dataclass
class _Attempts:
    """What was generated for one sentence, and what it cost."""

    takes: list[Take] = field(default_factory=list)
    stats: GenerationStats = field(default_factory=GenerationStats)

    def add(self, take: Take, stats: GenerationStats) -> None:
        self.takes.append(take)
        self.stats.add(stats)

    @property
    def best(self) -> list[Take]:
        """The takes with the fewest problems."""
        least = min(badness(take.problems) for take in self.takes)
        return [take for take in self.takes if badness(take.problems) == least]

    def sentence(self, job: SpeechJob, take: Take, start_s: float) -> SpokenSentence:
        return SpokenSentence(
            job.sentence.text, take.codes, take.seed, len(self.takes), take.problems, start_s
        )


def sentence_seed(seed: int, index: int) -> int:
    """Seed of a sentence by its place in the text."""
    return _hashed(f"{seed}/{index}")


def attempt_seed(seed: int, attempt: int) -> int:
    """Seed of an attempt at a sentence; the first has the sentence's own."""
    return seed if attempt == 0 else _hashed(f"{seed}#{attempt}")


def _hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=_SEED_BYTES).digest(), "big")
