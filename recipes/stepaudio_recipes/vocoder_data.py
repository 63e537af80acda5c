"""Training data of the vocoder: sound at its own rate beside its pitch, and random stretches of it.

Sound and pitch are prepared once, in parts that an interrupted run finds again. The batch of a step
is a pure function of the seed and the step.

Shape legend: B batch, M mel bands, T mel frames, S samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from stepaudio.atomic import write_bytes_atomic
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.audio.resample import resample
from stepaudio.errors import ConfigError
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.training.data import SampleStore
from stepaudio_recipes.pitch import PitchConfig, fill_gaps, track_pitch
from stepaudio_recipes.trainer import Workers

_PART_ROWS = 64
_INT16_SCALE = 32767.0
_LARGEST_SAMPLE = 0.99
_CONTEXT_FRAMES = 2  # on both sides of a stretch, so that its mel sees what lies beside it


@dataclass(frozen=True, kw_only=True)
class VoiceSource:
    """One part of the training mixture.

    Attributes:
        manifest: file in the data folder.
        weight: share of the stretches drawn.
        hours: sound used at most, of utterances chosen at random.
        source: keep only the rows whose source holds this; None: all rows.
        highest_hz: nothing above is in these recordings, or is heard by the losses.
    """

    manifest: str
    weight: float
    hours: float = 100.0
    source: str | None = None
    highest_hz: float = 7_600.0


@dataclass(frozen=True, kw_only=True)
class VoiceDataConfig:
    """Recordings and how stretches of them are drawn.

    Attributes:
        folder: manifest folder that the ``prepare`` recipe filled.
        cache_dir: folder for the prepared sound and pitch.
        sources: training mixture.
        dev: manifest that evaluations read.
        dev_source: keep only its rows whose source holds this; None: all.
        pitch: search range of the pitch.
        batch_rows: stretches in a batch.
        frames: mel frames of a stretch.
        gain_db: stretches become louder or softer by up to this.
    """

    folder: str
    cache_dir: str
    sources: tuple[VoiceSource, ...]
    dev: str
    dev_source: str | None = None
    pitch: PitchConfig = field(default_factory=PitchConfig)
    batch_rows: int = 12
    frames: int = 64
    gain_db: float = 6.0


@dataclass(frozen=True)
class PreparedSound:
    """Utterances of one source, one behind the other.

    Attributes:
        pcm: int16 samples, whole hops for every utterance.
        f0: Hz at the end of every hop, zero where nothing is voiced.
        ends: frames up to the end of every utterance.
    """

    pcm: NDArray[np.int16]
    f0: NDArray[np.float32]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class VoiceBatch:
    """Stretches of speech.

    Attributes:
        mel: float32 [B, M, T + lookahead].
        wav: float32 [B, T * hop].
        f0: Hz at the end of every hop, [B, T]; interpolated where nothing is voiced.
        voiced: one where F0 was found, else zero, [B, T].
        highest_hz: of what is in each row, [B].
    """

    mel: Tensor
    wav: Tensor
    f0: Tensor
    voiced: Tensor
    highest_hz: Tensor

    def to(self, device: torch.device) -> VoiceBatch:
        """Move to a device."""
        return VoiceBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


# ---- preparation ---------------------------------------------------------------------------


def choose_rows(rows: Sequence[ManifestRow], hours: float, seed: int) -> list[ManifestRow]:
    """Rows in a random order, until they have so many hours."""
    chosen, seconds = [], 0.0
    for index in np.random.default_rng(seed).permutation(len(rows)):
        if seconds >= hours * 3600:
            break
        chosen.append(rows[index])
        seconds += rows[index].duration
    return chosen


def load_samples(row: ManifestRow, rate: int, store: SampleStore) -> Tensor:
    """Samples of a row at any rate, float32 [samples].

    Raises:
        AudioLoadError: the file cannot be read.
    """
    if row.num_samples is None:
        return load_audio(row.audio_filepath, sample_rate=rate).samples
    return resample(torch.from_numpy(store.load(row)), SAMPLE_RATE, rate)


def _prepare_part(
    rows: Sequence[ManifestRow], mel: VoiceMel, pitch: PitchConfig, store: SampleStore
) -> dict[str, NDArray[np.generic]]:
    pcm, f0, frames = [], [], []
    for row in rows:
        wav = load_samples(row, mel.sample_rate, store).numpy()
        count = len(wav) // mel.hop
        if not count:
            continue
        wav = wav[: count * mel.hop]
        f0.append(track_pitch(wav, mel.sample_rate, mel.hop, pitch))
        pcm.append(np.round(np.clip(wav, -1.0, 1.0) * _INT16_SCALE).astype(np.int16))
        frames.append(count)
    return {
        "pcm": np.concatenate([*pcm, np.zeros(0, np.int16)]),
        "f0": np.concatenate([*f0, np.zeros(0, np.float32)]),
        "frames": np.array(frames, np.int64),
    }


def prepare_source(
    config: VoiceDataConfig, source: VoiceSource, mel: VoiceMel, seed: int
) -> PreparedSound:
    """Decode, resample and track the pitch of one source, or find what an earlier run has done.

    Raises:
        AudioLoadError: a recording cannot be read.
        ConfigError: the source has no rows.
    """
    rows = read_manifest(Path(config.folder) / source.manifest)
    rows = [row for row in rows if source.source is None or source.source in row.source]
    rows = choose_rows(rows, source.hours, seed)
    if not rows:
        raise ConfigError(f"{source.manifest}: no rows of source {source.source!r}")
    facts = [[row.audio_filepath, row.offset] for row in rows], asdict(config.pitch), asdict(mel)
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    name = f"{Path(source.manifest).stem}-{digest}"
    folder = Path(config.cache_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    store, parts = SampleStore(), []
    for first in tqdm(range(0, len(rows), _PART_ROWS), desc=f"pitch of {name}", unit="part"):
        path = folder / f"{first // _PART_ROWS:05d}.safetensors"
        if not path.exists():
            part = _prepare_part(rows[first : first + _PART_ROWS], mel, config.pitch, store)
            write_bytes_atomic(path, safetensors.numpy.save(part))
        parts.append(safetensors.numpy.load_file(path))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return PreparedSound(joined["pcm"], joined["f0"], joined["frames"].cumsum())


# ---- batches -------------------------------------------------------------------------------


class VoiceData:
    """Random stretches of all sources.

    Args:
        config: mixture and sizes.
        mel: features.
        model: its range of F0 and its lookahead.
        seed: of the choices.
    """

    def __init__(
        self, config: VoiceDataConfig, mel: VoiceMel, model: SourceFilterConfig, seed: int
    ) -> None:
        self.config, self.mel, self.seed = config, mel, seed
        self.lookahead = model.lookahead
        self._range = model.lowest_f0, model.highest_f0
        self.sounds = [prepare_source(config, source, mel, seed) for source in config.sources]
        weights = np.array([source.weight for source in config.sources])
        self._shares = weights / weights.sum()

    def batches(self, first_step: int, workers: Workers) -> Iterator[tuple[int, VoiceBatch]]:
        """(step, batch) pairs of one process from `first_step` on."""
        step = first_step
        while True:
            yield step, self.batch(step * workers.count + workers.rank)
            step += 1

    def batch(self, index: int) -> VoiceBatch:
        """Batch of a step; every frame of a source is equally likely."""
        rng = np.random.default_rng((self.seed, index))
        wavs, f0s, highest = [], [], []
        for choice in rng.choice(len(self.sounds), self.config.batch_rows, p=self._shares):
            wav, f0 = self._stretch(self.sounds[choice], rng)
            gain = 10 ** (rng.uniform(-self.config.gain_db, self.config.gain_db) / 20)
            gain = min(gain, _LARGEST_SAMPLE / max(float(np.abs(wav).max()), 1e-6))
            wavs.append(wav * np.float32(gain))
            f0s.append(f0)
            highest.append(self.config.sources[choice].highest_hz)
        sound, pitch = torch.from_numpy(np.stack(wavs)), np.stack(f0s)
        side = _CONTEXT_FRAMES
        mel = self.mel(sound)[..., side:-side]
        first = side * self.mel.hop
        return VoiceBatch(
            mel,
            sound[:, first : first + self.config.frames * self.mel.hop],
            torch.from_numpy(np.stack([fill_gaps(row) for row in f0s])).clamp(*self._range),
            torch.from_numpy((pitch > 0).astype(np.float32)),
            torch.tensor(highest),
        )

    def _stretch(
        self, sound: PreparedSound, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Samples with context, zeros outside the utterance, and F0 of the stretch's frames."""
        utterance = int(sound.ends.searchsorted(rng.integers(sound.ends[-1]), side="right"))
        begin = int(sound.ends[utterance - 1]) if utterance else 0
        end, frames = int(sound.ends[utterance]), self.config.frames
        first = begin + int(rng.integers(max(end - begin - frames, 0) + 1))
        f0 = np.zeros(frames, np.float32)
        known = sound.f0[first : min(first + frames, end)]
        f0[: len(known)] = known
        low = first - _CONTEXT_FRAMES
        high = first + frames + self.lookahead + _CONTEXT_FRAMES
        hop = self.mel.hop
        pcm = sound.pcm[max(low, begin) * hop : min(high, end) * hop]
        padding = (max(begin - low, 0) * hop, max(high - end, 0) * hop)
        return np.pad(pcm, padding).astype(np.float32) / np.float32(_INT16_SCALE), f0
