"""Takes of a speaking model: texts that it is given, and what it says."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stepaudio.atomic import write_text_atomic
from stepaudio.errors import ConfigError, StepAudioError
from stepaudio.tasks.speech_options import SpeechOptions
from stepaudio.tasks.speech_prompt import SpeechJob, SpeechPrompter
from stepaudio.tasks.speech_style import read_style
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.text.manifest import read_manifest
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.speech_data import SourceConfig

_SEEDS = 2**31


@dataclass(frozen=True, kw_only=True)
class RequestConfig:
    """What a model is asked to say.

    Attributes:
        texts: gzip file of normalised sentences, one a line.
        transcripts: recordings whose transcripts are said too; its weight is their share.
        folder: of the manifests.
        lexicon: pronunciation dictionary; sentences with unknown words are left out.
        voices: names that prompts have, and their shares.
        paced: share of the prompts that name one of the model's paces.
        shortest: letters of the shortest sentence.
        longest: letters of the longest one; it must be spoken in one piece.
    """

    texts: str
    folder: str
    transcripts: SourceConfig
    voices: dict = field(default_factory=dict)  # type: ignore[type-arg]
    lexicon: str = ".data/nano/cmudict.dict.gz"
    paced: float = 0.15
    shortest: int = 15
    longest: int = 72


@dataclass(frozen=True)
class Request:
    """One sentence to say.

    Attributes:
        text: normalised.
        targets: CTC indices of its phones.
        voice: name of the voice.
        pace: instruction; empty: none.
        seed: of the sampling.
    """

    text: str
    targets: tuple[int, ...]
    voice: str | None
    pace: str
    seed: int


@dataclass(frozen=True)
class SpokenTake:
    """What a model has said.

    Attributes:
        prompt: ids up to the answer.
        answer: ids of text and audio codes.
        codes: the audio codes in it.
        targets: CTC indices of the phones that it should have.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    codes: tuple[int, ...]
    targets: tuple[int, ...]


class Requests:
    """Draws what to say.

    Raises:
        ConfigError: a file is missing or damaged, or no sentence is left.
    """

    def __init__(self, config: RequestConfig, paces: Sequence[str]) -> None:
        self._config = config
        self._paces = tuple(paces)
        self._lexicon = Lexicon.read(Path(config.lexicon))
        self._texts = self._sayable(_read_lines(Path(config.texts)))
        source = config.transcripts
        rows = read_manifest(Path(config.folder) / source.manifest)
        self._transcripts = self._sayable(
            row.text for row in rows if source.source is None or source.source in row.source
        )
        if not self._texts or not self._transcripts:
            raise ConfigError(f"{config.texts}: no sentence of a fitting length has known words")

    def _sayable(self, texts: Iterable[str]) -> list[str]:
        shortest, longest = self._config.shortest, self._config.longest
        return [t for t in texts if shortest <= len(t) <= longest and self._lexicon.targets(t)]

    def draw(self, count: int, rng: np.random.Generator) -> list[Request]:
        """Draw requests."""
        return [self._draw(rng) for _ in range(count)]

    def of_texts(self, texts: Sequence[str], voice: str | None) -> list[Request]:
        """Requests of given texts, those with unknown words left out."""
        sayable = list(dict.fromkeys(self._sayable(texts)))
        return [Request(t, tuple(self._lexicon.targets(t)), voice, "", 0) for t in sayable]

    def _draw(self, rng: np.random.Generator) -> Request:
        known = rng.random() < self._config.transcripts.weight
        texts = self._transcripts if known else self._texts
        text = texts[rng.integers(len(texts))]
        voices, shares = list(self._config.voices), np.array(list(self._config.voices.values()))
        voice = str(rng.choice(voices, p=shares / shares.sum())) if voices else None
        paced = bool(self._paces) and rng.random() < self._config.paced
        pace = str(rng.choice(self._paces)) if paced else ""
        targets = tuple(self._lexicon.targets(text))
        return Request(text, targets, voice, pace, int(rng.integers(_SEEDS)))


def _read_lines(path: Path) -> list[str]:
    try:
        return gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; the prepare recipe makes it") from error


def say(model: StepAudio, requests: Sequence[Request], num_slots: int) -> list[SpokenTake]:
    """Have a model say sentences; answers that did not come to their end are left out.

    Args:
        model: reads aloud.
        requests: what to say.
        num_slots: sentences that are generated together.
    """
    prompter = SpeechPrompter(model, SpeechOptions())
    prepared: list[tuple[Request, SpeechJob]] = []
    for request in requests:
        style = read_style(request.pace or None, prompter.config.styles)
        try:
            sentences = prompter.sentences(request.text)
            if len(sentences) == 1:
                prepared.append((request, prompter.job(sentences[0], request.voice, style)))
        except StepAudioError:  # one sentence less of very many
            continue
    completions = model.generator.generate(
        [job.prompt for _, job in prepared],
        [job.sampling(request.seed) for request, job in prepared],
        num_slots=num_slots,
    )
    takes = []
    for (request, job), completion in zip(prepared, completions, strict=True):
        _, codes = model.tokenizer.vocab.split_ids(completion.ids)
        if completion.finish_reason == "stop" and len(codes) > len(request.targets):
            prompt = tuple(job.prompt.ids)
            takes.append(SpokenTake(prompt, tuple(completion.ids), tuple(codes), request.targets))
    return takes


def write_takes(path: Path, takes: Sequence[SpokenTake]) -> None:
    """Write takes, one JSON object a line."""
    lines = (json.dumps(dataclasses.asdict(take)) for take in takes)
    write_text_atomic(path, "".join(f"{line}\n" for line in lines))


def read_takes(path: Path) -> list[SpokenTake]:
    """Takes of a file.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [SpokenTake(**{name: tuple(ids) for name, ids in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}; delete it, and it is made again") from error
