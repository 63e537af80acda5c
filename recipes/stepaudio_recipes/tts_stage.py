"""Training of the reading voice: a reading in, audio codes out, in the interleaved layout.

The answer has the public layout, one text token and four audio codes in turn, but its text tokens
are given, not chosen: the loss is on codes, and behind the text on going on or ending
(`stepaudio.tasks.tts` generates in the same way).

Shape legend: B rows, T tokens, D decoder width, R trained rows of the embedding table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.conversation import ChatTemplate, text_message
from stepaudio.conversation.messages import Message, SpecialPart, TokenPart
from stepaudio.models.adapters import LoraConfig, inject_lora
from stepaudio.models.backbone import Backbone
from stepaudio.models.masks import plan_attention
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.text.reading import read_words, reading_ids, reading_instruction
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import CODES_PER_GROUP, TTS_START
from stepaudio.training.data import Source, plan_batches
from stepaudio_recipes.codes import CodeStore
from stepaudio_recipes.guided_attention import AttentionProbe, GuideConfig, guided
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.phone_times import time_store
from stepaudio_recipes.speech_data import SourceConfig
from stepaudio_recipes.text_data import IGNORED_LABEL
from stepaudio_recipes.trainer import Workers

INSTRUCTION = "read this aloud"
PACES = ("slowly", "quickly")


@dataclass(frozen=True, kw_only=True)
class TtsConfig:
    """Data and noise of the stage.

    Attributes:
        folder: of the manifests.
        codes: folder of the audio codes, from the recipe ``codec``.
        sources: training mixture.
        dev: manifest and source of the development set.
        lexicon: pronunciation dictionary.
        batch_s: padded seconds of speech in a batch.
        code_noise: share of the input codes that are replaced at random, so that the decoder
            does not come to trust its own output more than the reading.
        spelled: share of the words that are given as letters, so that unknown ones can be read.
        named: chance that the prompt names the voice.
        paced: chance that the prompt names a pace, where the speech is slow or quick.
        pace_quantile: share of a speaker's utterances that counts as slow, and as quick.
        bfloat16: compute in half precision, which some CPUs do in two thirds of the time.
        guide: heads that are shown where in the reading they are.
    """

    folder: str
    codes: str
    sources: tuple[SourceConfig, ...]
    dev: SourceConfig
    lexicon: str = ".data/nano/cmudict.dict.gz"
    batch_s: float = 60.0
    code_noise: float = 0.05
    spelled: float = 0.06
    named: float = 0.8
    paced: float = 0.7
    pace_quantile: float = 0.2
    bfloat16: bool = False
    guide: GuideConfig = field(default_factory=GuideConfig)


class SpeechDecoder(nn.Module):
    """Decoder with an adapter, and the rows of the embedding table that only speech needs.

    Attributes:
        backbone: frozen decoder with trained low-rank updates.
        rows: [R, D] embeddings of the ids from `first_row` on.
    """

    frozen: Tensor

    def __init__(self, backbone: Backbone, first_row: int, num_rows: int, lora: LoraConfig) -> None:
        super().__init__()
        table = backbone.embed_tokens.weight.detach()
        self.first_row = first_row
        self.register_buffer("frozen", table[:first_row].clone(), persistent=False)
        scale = float(self.frozen.std())
        self.rows = nn.Parameter(torch.randn(num_rows, table.shape[1]) * scale)
        inject_lora(backbone, lora)
        # Replaced by `frozen` and `rows`; a copy would be saved with every checkpoint.
        backbone.embed_tokens = nn.Embedding(1, table.shape[1]).requires_grad_(False)
        self.backbone = backbone

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states [B, T, D] of right-padded tokens [B, T]."""
        embeds = F.embedding(ids, torch.cat([self.frozen, self.rows]))
        windows = self.backbone.config.layer_windows
        hidden: Tensor = self.backbone(embeds, plan_attention(ids.shape[1], ids.device, windows))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., R] of the trained rows, the head being tied to them."""
        return F.linear(hidden, self.rows)


@dataclass(frozen=True)
class TtsBatch:
    """Right-padded examples.

    Attributes:
        ids: [B, T] input tokens.
        labels: [B, T] next tokens, where there is a loss.
        readings: [B, 2] bounds of the readings.
        places: [B, T] token of the reading that the next token speaks, negative where there is
            none, see `place_weights`.
        speech_s: seconds of speech.
    """

    ids: Tensor
    labels: Tensor
    readings: Tensor
    places: Tensor
    speech_s: float


@dataclass(frozen=True)
class _Example:
    """One row of a batch."""

    ids: list[int]
    labels: list[int]
    reading: tuple[int, int]
    places: NDArray[np.float32]


class TtsExamples:
    """Rows to tokens."""

    def __init__(self, tokenizer: TextTokenizer, lexicon: Lexicon) -> None:
        self._tokenizer = tokenizer
        self._lexicon = lexicon
        self._template = ChatTemplate(tokenizer)

    def reading(self, text: str, spelled: frozenset[int] = frozenset()) -> str:
        """Reading of a text; words at the places `spelled` as letters."""
        words = text.split()
        parts = read_words(words, self._lexicon).split()
        return " ".join(f"({words[i]})" if i in spelled else p for i, p in enumerate(parts))

    def phone_positions(self, reading: str, text: str) -> NDArray[np.float32]:
        """Token, in the tokens of a reading, of every phone of its text; letters share theirs."""
        positions: list[float] = []
        start = 0
        for word, part in zip(text.split(), reading.split(), strict=True):
            size = len(reading_ids(self._tokenizer, part))
            known = self._lexicon.pronunciations(word)
            count = len(known[0]) if known else size
            positions += [start + i * size / count for i in range(count)]
            start += size + 1
        return np.array(positions, np.float32)

    def prompt(self, instruction: str, reading: str) -> tuple[list[int], int]:
        """Prompt up to and with <tts_start>, and the first token of the reading in it."""
        spoken = reading_ids(self._tokenizer, reading)
        messages = [
            text_message("system", instruction),
            Message("user", (TokenPart(tuple(spoken)),)),
            Message("assistant", (SpecialPart(TTS_START),), eot=False),
        ]
        ids = self._template.render(messages).ids
        header = self._template.render([Message("assistant", (), eot=False)]).ids
        # Behind the reading: the end of its message, the answer's header and <tts_start>.
        return ids, len(ids) - len(header) - 2 - len(spoken)

    def answer(self, text: str, codes: Sequence[int]) -> tuple[list[int], list[int]] | None:
        """Tokens of the answer and the labels of the same places; None if the text is too long."""
        vocab = self._tokenizer.vocab
        text_ids = self._tokenizer.encode(text)
        padded = [*codes, *[codes[-1]] * (-len(codes) % CODES_PER_GROUP)]
        groups = len(padded) // CODES_PER_GROUP
        if len(text_ids) >= groups:
            return None
        ids, labels = [], []
        for group in range(groups):
            given = group < len(text_ids)
            token = text_ids[group] if given else vocab.tts_pad
            spoken = padded[group * CODES_PER_GROUP : (group + 1) * CODES_PER_GROUP]
            spoken = [vocab.audio_0 + int(code) for code in spoken]
            ids += [token, *spoken]
            labels += [IGNORED_LABEL if given else token, *spoken]
        return [*ids, vocab.tts_end], [*labels, vocab.tts_end]


@dataclass
class TtsData:
    """Batches as a function of seed and step, and the development set."""

    config: TtsConfig
    tokenizer: TextTokenizer
    seed: int
    sources: list[Source] = field(init=False)
    dev: list[ManifestRow] = field(init=False)

    def __post_init__(self) -> None:
        self._codes = CodeStore(self.config.codes)
        self._times = time_store(self.config.codes) if self.config.guide.weight else None
        self._examples = TtsExamples(self.tokenizer, Lexicon.read(Path(self.config.lexicon)))
        self.sources = [Source(source_rows(self.config, s), s.weight) for s in self.config.sources]
        self.dev = source_rows(self.config, self.config.dev)
        self._limits = _pace_limits(
            [row for source in self.sources for row in source.rows], self.config.pace_quantile
        )

    def batches(self, first_step: int, workers: Workers) -> Iterator[tuple[int, TtsBatch]]:
        """(step, batch) pairs of one process from `first_step` on."""
        plan = plan_batches(self.sources, self.config.batch_s, self.seed)
        for index, rows in enumerate(plan):
            step, rank = divmod(index, workers.count)
            if step >= first_step and rank == workers.rank:
                yield step, self.build(rows, np.random.default_rng((self.seed, index, 1)))

    def build(self, rows: Sequence[ManifestRow], rng: np.random.Generator | None) -> TtsBatch:
        """Tokens of some rows; `rng` draws prompts and noise, without it there is none."""
        examples, seconds = [], 0.0
        for row in rows:
            example = self._example(row, rng)
            if example is not None:
                examples.append(example)
                seconds += row.duration
        longest = max((len(example.ids) for example in examples), default=1)
        ids = torch.full((max(1, len(examples)), longest), self.tokenizer.vocab.pad)
        labels = torch.full_like(ids, IGNORED_LABEL)
        for index, example in enumerate(examples):
            ids[index, : len(example.ids)] = torch.tensor(example.ids)
            labels[index, : len(example.labels)] = torch.tensor(example.labels)
        # Where a label is, the token before it is the input.
        labels = F.pad(labels, (0, 1), value=IGNORED_LABEL)[:, 1:]
        readings = torch.zeros(len(ids), 2, dtype=torch.long)
        places = torch.full(ids.shape, -1.0)
        for index, example in enumerate(examples):
            readings[index] = torch.tensor(example.reading)
            places[index, : len(example.ids)] = torch.from_numpy(example.places)
        return TtsBatch(ids, labels, readings, places, seconds)

    def _example(self, row: ManifestRow, rng: np.random.Generator | None) -> _Example | None:
        codes = self._codes.load(row)
        answer = self._examples.answer(row.text, codes.tolist())
        if answer is None:
            return None
        ids, labels = answer
        config = self.config
        instruction = self.instruction(row, rng)
        spelled: frozenset[int] = frozenset()
        if rng is not None:
            words = range(len(row.text.split()))
            spelled = frozenset(i for i in words if rng.random() < config.spelled)
            first = self.tokenizer.vocab.audio_0
            noise = rng.random(len(ids)) < config.code_noise
            random_codes = rng.integers(0, self.tokenizer.vocab.num_codes, len(ids))
            ids = [
                first + int(code) if noisy and self.tokenizer.vocab.is_audio(token) else token
                for token, noisy, code in zip(ids, noise, random_codes, strict=True)
            ]
        reading = self._examples.reading(row.text, spelled)
        prompt, start = self._examples.prompt(instruction, reading)
        positions = self._examples.phone_positions(reading, row.text)
        stop = start + len(reading_ids(self.tokenizer, reading))
        spoken = start + self._spoken(row, positions, len(ids))
        # A token looks at what the one behind it speaks; the last one at nothing more.
        behind = np.full(len(prompt) + len(ids), -1.0, np.float32)
        behind[len(prompt) - 1 : -1] = spoken
        return _Example(
            [*prompt, *ids],
            [*[IGNORED_LABEL] * len(prompt), *labels],
            (start, stop),
            behind,
        )

    def _spoken(
        self, row: ManifestRow, positions: NDArray[np.float32], num_tokens: int
    ) -> NDArray[np.float32]:
        """Token of the reading, from 0, that each token of the answer belongs to."""
        groups, place = np.divmod(np.arange(num_tokens), CODES_PER_GROUP + 1)
        frames = groups * CODES_PER_GROUP + np.maximum(place - 1, 0)
        times = self._times.load(row) if self._times is not None else ()
        if len(times) != len(positions):  # not aligned: as far as the speech
            return np.interp(frames, [0, frames[-1]], positions[[0, -1]]).astype(np.float32)
        return np.interp(frames, times, positions).astype(np.float32)

    def instruction(self, row: ManifestRow, rng: np.random.Generator | None) -> str:
        """System message: the task, perhaps the voice, perhaps the pace."""
        config = self.config
        speaker = voice_name(row)
        named = rng is None or rng.random() < config.named
        limits = self._limits.get(speaker)
        style = ""
        if limits is not None and rng is not None and rng.random() < config.paced:
            pace = _pace(row)
            style = PACES[0] if pace >= limits[1] else PACES[1] if pace <= limits[0] else ""
        return reading_instruction(INSTRUCTION, voice=speaker if named else None, style=style)


def source_rows(config: TtsConfig, source: SourceConfig) -> list[ManifestRow]:
    """Rows of one part of the mixture."""
    rows = read_manifest(Path(config.folder) / source.manifest)
    return [row for row in rows if source.source is None or source.source in row.source]


def voice_name(row: ManifestRow) -> str:
    """Name of the voice in prompts: ``slt`` of ``flite/slt``, ``kathleen``."""
    return (row.speaker or row.source).rpartition("/")[2].lower()


def _pace(row: ManifestRow) -> float:
    """Seconds a letter."""
    return row.duration / max(1, len(row.text))


def _pace_limits(rows: Sequence[ManifestRow], quantile: float) -> Mapping[str, tuple[float, float]]:
    by_voice: dict[str, list[float]] = {}
    for row in rows:
        by_voice.setdefault(voice_name(row), []).append(_pace(row))
    return {
        name: (float(np.quantile(p, quantile)), float(np.quantile(p, 1 - quantile)))
        for name, p in by_voice.items()
    }


def guided_tts_loss(
    model: SpeechDecoder, batch: TtsBatch, device: torch.device, config: GuideConfig
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy as `tts_loss`, and the unweighted loss of the guided heads."""
    with AttentionProbe().watch(model.backbone, config.layers) as probe:
        loss, _ = tts_loss(model, batch, device)
    places, readings = batch.places.to(device), batch.readings.to(device)
    return loss, guided(probe, model.backbone, config, places, readings)


def tts_loss(model: SpeechDecoder, batch: TtsBatch, device: torch.device) -> tuple[Tensor, int]:
    """Mean cross-entropy of codes and ends, and the number of labels."""
    labels = batch.labels.to(device)
    hidden = model(batch.ids.to(device))
    labelled = labels != IGNORED_LABEL
    logits = model.logits(hidden[labelled]).float()
    return F.cross_entropy(logits, labels[labelled] - model.first_row), int(labelled.sum())
