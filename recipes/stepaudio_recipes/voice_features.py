"""Features of recordings for the training of the flow, computed once: its mel and filter banks.

The cache is a folder of blocks, each written whole, so that an interrupted run goes on where it
was. The name of a block is a digest of its recordings and of the mel; a block of others is never
read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from stepaudio.atomic import write_bytes_atomic
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.audio.prompt_features import FBANK_BINS, VoiceMel, kaldi_fbank
from stepaudio.audio.resample import resample
from stepaudio.text.manifest import ManifestRow
from stepaudio.training.data import SampleStore

_FORMAT = 1
_BLOCK_ROWS = 256
_OPEN_BLOCKS = 256
_PARTS = ("mel", "fbank")


def _key(row: ManifestRow) -> str:
    """What tells one recording from all others."""
    return f"{row.audio_filepath}:{row.offset or 0}"


@dataclass(frozen=True)
class _Place:
    """Where the features of a recording are: the block, and first row and rows of each part."""

    path: Path
    starts: dict[str, int]
    lens: dict[str, int]


@lru_cache(maxsize=_OPEN_BLOCKS)
def _open(path: Path) -> Any:
    return safe_open(path, framework="pt")  # memory-mapped


class FeatureCache:
    """Mel and filter banks of recordings, in half precision on disk.

    Args:
        folder: made if needed.
        mel: the mel between flow and vocoder. Files are read at its sample rate; shards of
            16 kHz samples are resampled.
    """

    def __init__(self, folder: Path, mel: VoiceMel) -> None:
        self._folder, self._mel = folder, mel
        self._samples = SampleStore()
        self._places: dict[str, _Place] = {}

    def prepare(self, rows: Sequence[ManifestRow]) -> None:
        """Compute what is not there yet, with a progress bar.

        Raises:
            AudioLoadError: a recording cannot be read.
            OutputError: the cache cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(rows), desc="features", unit="rows", disable=None) as bar:
            for first in range(0, len(rows), _BLOCK_ROWS):
                block = rows[first : first + _BLOCK_ROWS]
                path = self._folder / f"{self._digest(block)}.safetensors"
                if not path.exists():
                    write_bytes_atomic(path, safetensors.torch.save(self._computed(block)))
                self._index(path, block)
                bar.update(len(block))

    def num_fbank_frames(self, row: ManifestRow) -> int:
        """Filter bank frames of a recording, 100 a second."""
        return self._place(row).lens["fbank"]

    def mel(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """Mel frames from `start` to before `stop` or the end, float32 [C, T]."""
        return self._slice(row, "mel", start, stop).mT.contiguous()

    def fbank(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """Filter bank frames of a piece, mean-free like those of the piece alone: [F, bins]."""
        piece = self._slice(row, "fbank", start, stop)
        return piece - piece.mean(dim=0, keepdim=True)

    def _slice(self, row: ManifestRow, part: str, start: int, stop: int) -> Tensor:
        place = self._place(row)
        first, size = place.starts[part], place.lens[part]
        stored = _open(place.path).get_slice(part)
        values: Tensor = stored[first + start : first + min(stop, size)]
        return values.float()

    def _place(self, row: ManifestRow) -> _Place:
        return self._places[_key(row)]

    def _digest(self, rows: Sequence[ManifestRow]) -> str:
        names = (_FORMAT, repr(self._mel), *(f"{_key(r)}:{r.num_samples}" for r in rows))
        return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()[:16]

    def _index(self, path: Path, rows: Sequence[ManifestRow]) -> None:
        with safe_open(path, framework="pt") as block:
            ends = {part: block.get_tensor(f"{part}_ends").tolist() for part in _PARTS}
        for i, row in enumerate(rows):
            starts = {part: ends[part][i - 1] if i else 0 for part in _PARTS}
            lens = {part: ends[part][i] - starts[part] for part in _PARTS}
            self._places[_key(row)] = _Place(path, starts, lens)

    def _computed(self, rows: Sequence[ManifestRow]) -> dict[str, Tensor]:
        features = [self._features(row) for row in rows]
        tensors = {}
        for index, part in enumerate(_PARTS):
            pieces = [pair[index] for pair in features]
            tensors[part] = torch.cat(pieces).half()
            tensors[f"{part}_ends"] = torch.tensor([len(p) for p in pieces]).cumsum(0)
        return tensors

    def _features(self, row: ManifestRow) -> tuple[Tensor, Tensor]:
        """Mel [T, C] and filter banks [F, bins] of a whole recording."""
        speech = torch.from_numpy(self._samples.load(row))
        rate = self._mel.sample_rate
        if row.num_samples is None:
            sound = load_audio(row.audio_filepath, sample_rate=rate, mono="mean").samples
        else:
            sound = resample(speech, SAMPLE_RATE, rate)
        mel = (
            self._mel(sound).mT
            if len(sound) > self._mel.margin
            else sound.new_zeros(0, self._mel.num_mels)
        )
        return mel, kaldi_fbank(speech, FBANK_BINS, subtract_mean=False)
