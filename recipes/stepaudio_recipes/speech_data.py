"""Training mixture and development set of the speech recipes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.encoder import ChunkMask
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.text.wer import word_error_rate
from stepaudio.training.augment import AugmentConfig
from stepaudio.training.data import Batch, BatchBuilder, SampleStore, Source, plan_batches
from stepaudio_recipes.trainer import Workers

_DEV_BATCH_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One part of the training mixture.

    Attributes:
        manifest: file in the data folder.
        weight: share of the utterances drawn.
        source: keep only the rows whose source holds this; None: all rows.
    """

    manifest: str
    weight: float
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """Random attention chunks in training, in mel frames.

    Attributes:
        full_probability: chance of full attention.
        chunks: chunk lengths to draw from.
        lefts: left contexts to draw from.
    """

    full_probability: float = 0.5
    chunks: tuple[int, ...] = (32, 64, 64, 128)
    lefts: tuple[int, ...] = (128, 256, 256, 512)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Manifests, all below one folder.

    Attributes:
        folder: manifest folder that the ``prepare`` recipe filled.
        sources: training mixture.
        dev: manifest that evaluations read.
        noise: manifest of noise recordings.
        rirs: manifest of room impulse responses.
        batch_s: padded seconds of audio in a batch.
    """

    folder: str
    sources: tuple[SourceConfig, ...]
    dev: str
    noise: str | None = None
    rirs: str | None = None
    batch_s: float = 60.0


def sample_chunk_mask(config: ChunkConfig, rng: np.random.Generator) -> ChunkMask | None:
    """Draw the attention mask of one training step; None is full attention."""
    if rng.random() < config.full_probability:
        return None
    return ChunkMask(int(rng.choice(config.chunks)), int(rng.choice(config.lefts)))


class SpeechData:
    """Training batches and the development set of one stage."""

    def __init__(
        self,
        config: DataConfig,
        encoder: AudioEncoderConfig,
        augment: AugmentConfig | None,
        seed: int,
    ) -> None:
        self._folder = Path(config.folder)
        self._store = SampleStore()
        self._batch_s, self._seed = config.batch_s, seed
        self._sources = [self._source(source) for source in config.sources]
        self.dev = sorted(self._rows(config.dev), key=lambda row: row.duration)
        self._builder = BatchBuilder(
            encoder,
            augment,
            self._samples(config.noise),
            self._samples(config.rirs),
            seed,
            self._store,
        )
        self._clean = BatchBuilder(encoder, None, store=self._store)

    def _rows(self, manifest: str) -> list[ManifestRow]:
        return read_manifest(self._folder / manifest)

    def _source(self, config: SourceConfig) -> Source:
        rows = self._rows(config.manifest)
        if config.source is not None:
            rows = [row for row in rows if config.source in row.source]
        return Source(rows, config.weight)

    def _samples(self, manifest: str | None) -> list[NDArray[np.float32]]:
        return [self._store.load(row) for row in self._rows(manifest)] if manifest else []

    def samples(self, row: ManifestRow) -> NDArray[np.float32]:
        """Samples of one row at 16 kHz."""
        return self._store.load(row)

    def batches(self, first_step: int, workers: Workers) -> Iterator[tuple[int, Batch]]:
        """(step, batch) pairs of one process from `first_step` on."""
        for index, rows in enumerate(plan_batches(self._sources, self._batch_s, self._seed)):
            step, rank = divmod(index, workers.count)
            if step >= first_step and rank == workers.rank:
                yield step, self._builder.build(rows, index)

    def dev_batches(self) -> Iterator[Batch]:
        """The development set `dev` in order, unaugmented."""
        for start in range(0, len(self.dev), _DEV_BATCH_ROWS):
            yield self._clean.build(self.dev[start : start + _DEV_BATCH_ROWS], 0)


def word_errors_by_source(rows: Sequence[ManifestRow], texts: Sequence[str]) -> dict[str, float]:
    """Word error rate in percent of each source in a manifest."""
    rates = {}
    for source in sorted({row.source for row in rows}):
        chosen = [i for i, row in enumerate(rows) if row.source == source]
        rate = word_error_rate([rows[i].text for i in chosen], [texts[i] for i in chosen]).rate
        rates[f"wer/{source}"] = 100 * rate
    return rates
