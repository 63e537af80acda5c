"""Speech training data: manifest rows to deterministic, length-bucketed, augmented batches.

The batch of a step is a pure function of the seed and the step, so a killed run resumes with the
data that it would have seen. Preferences between spoken takes have a module of their own,
`preferences`; its names can be imported from here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.audio.mel import log_mel
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.text.ctc import ctc_targets
from stepaudio.text.manifest import ManifestRow
from stepaudio.training.augment import AugmentConfig, Samples, augment_waveform, spec_augment
from stepaudio.training.preference_writing import append_preference, store_audio
from stepaudio.training.preferences import (
    PreferencePair,
    PreferencePrompt,
    PreferenceRow,
    PreferenceTake,
    TakeSentence,
    load_preference_pairs,
    read_preferences,
)

__all__ = [
    "Batch",
    "BatchBuilder",
    "PreferencePair",
    "PreferencePrompt",
    "PreferenceRow",
    "PreferenceTake",
    "SampleStore",
    "Source",
    "TakeSentence",
    "append_preference",
    "load_preference_pairs",
    "pack_rows",
    "plan_batches",
    "read_preferences",
    "store_audio",
]

_INT16_SCALE = np.float32(1.0 / 32768.0)
_BLOCK_ROWS = 2048  # utterances that are sorted by length together
_LENGTH_JITTER = 0.15  # relative noise on lengths while sorting, so that batches vary


class SampleStore:
    """Reads the samples of manifest rows; raw int16 shards stay memory-mapped."""

    def __init__(self) -> None:
        self._shards: dict[str, np.memmap] = {}

    def load(self, row: ManifestRow) -> Samples:
        """Samples of one row, float32 at 16 kHz.

        Raises:
            AudioLoadError: the file cannot be read.
        """
        if row.num_samples is None:
            return load_audio(row.audio_filepath).samples.numpy()
        shard = self._shards.get(row.audio_filepath)
        if shard is None:
            shard = np.memmap(row.audio_filepath, dtype=np.int16, mode="r")
            self._shards[row.audio_filepath] = shard
        start = row.offset or 0
        return shard[start : start + row.num_samples].astype(np.float32) * _INT16_SCALE


@dataclass(frozen=True)
class Source:
    """One manifest in a training mixture; `weight` is its share of the drawn utterances."""

    rows: Sequence[ManifestRow]
    weight: float


@dataclass(frozen=True)
class Batch:
    """One padded batch.

    Attributes:
        mel: [B, M, T] log-mel, right-padded with zeros.
        mel_lens: [B] valid mel frames.
        targets: [B, U] CTC targets.
        target_lens: [B].
        texts: the transcripts.
        audio_s: seconds of audio, padding excluded.
    """

    mel: Tensor
    mel_lens: Tensor
    targets: Tensor
    target_lens: Tensor
    texts: tuple[str, ...]
    audio_s: float


def _endless(source: Source, index: int, seed: int) -> Iterator[ManifestRow]:
    """All rows in a seeded order, again and again in new orders."""
    epoch = 0
    while True:
        order = np.random.default_rng((seed, index, epoch)).permutation(len(source.rows))
        yield from (source.rows[i] for i in order)
        epoch += 1


def plan_batches(
    sources: Sequence[Source], batch_s: float, seed: int
) -> Iterator[list[ManifestRow]]:
    """Endless batches of at most `batch_s` padded seconds, similar lengths together."""
    total = sum(source.weight for source in sources)
    drawn = [_endless(source, index, seed) for index, source in enumerate(sources)]
    counts = [max(1, round(_BLOCK_ROWS * source.weight / total)) for source in sources]
    block = 0
    while True:
        rng = np.random.default_rng((seed, block))
        rows = [row for it, n in zip(drawn, counts, strict=True) for row in islice(it, n)]
        noisy = [r.duration * rng.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER) for r in rows]
        batches: list[list[ManifestRow]] = [[]]
        longest = 0.0
        for i in np.argsort(noisy, kind="stable"):
            longest = max(longest, rows[i].duration)
            if batches[-1] and longest * (len(batches[-1]) + 1) > batch_s:
                batches.append([])
                longest = rows[i].duration
            batches[-1].append(rows[i])
        # The first block goes from short to long clips: CTC leaves its blank plateau sooner.
        order = rng.permutation(len(batches)) if block else range(len(batches))
        yield from (batches[i] for i in order)
        block += 1


@dataclass
class BatchBuilder:
    """Turns the rows of a step into tensors.

    Attributes:
        config: encoder configuration (mel bands, floor, CTC characters).
        augment: augmentation, or None for none.
        noises: noise recordings.
        impulses: room impulse responses.
        seed: seed of all augmentation.
    """

    config: AudioEncoderConfig
    augment: AugmentConfig | None
    noises: Sequence[Samples] = ()
    impulses: Sequence[Samples] = ()
    seed: int = 0
    store: SampleStore = field(default_factory=SampleStore)

    def build(self, rows: Sequence[ManifestRow], step: int) -> Batch:
        """Load, augment and pad the rows of one step."""
        rng = np.random.default_rng((self.seed, step, 1))
        mels, audio_s = [], 0.0
        for row in rows:
            wav = self.store.load(row)
            if self.augment is not None:
                wav = augment_waveform(wav, self.augment, rng, self.noises, self.impulses)
            audio_s += len(wav) / SAMPLE_RATE
            mel = log_mel(torch.from_numpy(wav), self.config.n_mels, floor=self.config.mel_floor)
            mels.append(mel if self.augment is None else spec_augment(mel, self.augment, rng))
        geometry = self.config.geometry
        lens = [geometry.valid_mel_frames(mel.shape[1]) for mel in mels]
        longest = max(mel.shape[1] for mel in mels)
        batch = torch.zeros(len(mels), self.config.n_mels, longest)
        for i, mel in enumerate(mels):
            batch[i, :, : mel.shape[1]] = mel
        ids = [ctc_targets(row.text, self.config.ctc_tokens) for row in rows]
        targets = torch.zeros(len(ids), max(1, *map(len, ids), 1), dtype=torch.long)
        for i, target in enumerate(ids):
            targets[i, : len(target)] = torch.tensor(target, dtype=torch.long)
        return Batch(
            batch,
            torch.tensor(lens),
            targets,
            torch.tensor([len(t) for t in ids]),
            tuple(row.text for row in rows),
            audio_s,
        )


def pack_rows(rows: Sequence[ManifestRow], shard: Path) -> list[ManifestRow]:
    """Decode the audio of all rows into one raw int16 shard and return rows that point into it.

    Decoding compressed audio costs more than a training step should.
    """
    shard.parent.mkdir(parents=True, exist_ok=True)
    temporary = shard.with_suffix(".partial")
    packed, offset = [], 0
    with temporary.open("wb") as out:
        for row in rows:
            wav = load_audio(row.audio_filepath).samples.numpy()
            pcm = np.clip(np.round(wav * 32767.0), -32768, 32767).astype(np.int16)
            out.write(pcm.tobytes())
            packed.append(
                dataclasses.replace(
                    row,
                    audio_filepath=str(shard),
                    offset=offset,
                    num_samples=len(pcm),
                    duration=len(pcm) / SAMPLE_RATE,
                )
            )
            offset += len(pcm)
    os.replace(temporary, shard)
    return packed
