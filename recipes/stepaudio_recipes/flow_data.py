"""Batches for the flow: audio tokens, their mel, prompts, and another piece of the same speaker.

The batch of a step is a pure function of the seed and the step, as in `stepaudio.training.data`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudio.audio.prompt_features import FBANK_BINS
from stepaudio.errors import ConfigError
from stepaudio.models.token2wav.flow_training import FlowBatch
from stepaudio.models.token2wav.voice import fit_frames
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.training.data import Source, plan_batches
from stepaudio_recipes.speech_data import SourceConfig
from stepaudio_recipes.trainer import Workers
from stepaudio_recipes.voice_features import FeatureCache

SHORTEST_PIECE_S = 0.2
_FBANK_RATE = 100  # frames a second


class CodeSource(Protocol):
    """Audio tokens of recordings."""

    def load(self, row: ManifestRow) -> NDArray[np.int16]:
        """Audio tokens of one recording, [n]."""


class TwinCodes:
    """Audio tokens of original recordings that were taken from their packed copies.

    The copies serve recognition, at 16 kHz; the mel needs the originals.

    Args:
        codes: audio tokens of the copies, and of recordings without one.
        folder: manifest folder.
        manifests: those with a copy ``<stem>.packed.jsonl``, row by row.

    Raises:
        ConfigError: a manifest and its copy have different rows.
    """

    def __init__(self, codes: CodeSource, folder: Path, manifests: Sequence[str]) -> None:
        self._codes = codes
        self._twins: dict[str, ManifestRow] = {}
        for name in manifests:
            twin = folder / f"{Path(name).stem}.packed.jsonl"
            pairs = read_manifest(folder / name), read_manifest(twin)
            if [row.text for row in pairs[0]] != [row.text for row in pairs[1]]:
                raise ConfigError(f"{twin}: is no copy of {name}; run the recipe prepare again")
            self._twins |= {a.audio_filepath: b for a, b in zip(*pairs, strict=True)}

    def load(self, row: ManifestRow) -> NDArray[np.int16]:
        """Audio tokens of one recording, [n]."""
        twin = self._twins.get(row.audio_filepath) if row.num_samples is None else None
        return self._codes.load(twin or row)


@dataclass(frozen=True, kw_only=True)
class FlowDataConfig:
    """Recordings of the flow's training.

    Attributes:
        folder: manifest folder that the ``prepare`` recipe filled.
        sources: training mixture.
        dev: manifest that evaluations read.
        packed: manifests whose audio tokens are those of their packed copies.
        dev_source: keep only the rows whose source holds this.
        num_dev: at most so many of them.
        batch_s: padded seconds of audio in a batch, prompts of other recordings not counted.
        shortest_s: shorter recordings are left out.
        longest_s: longer ones are cut to a random piece.
        prompt_batches: share of the batches whose rows have a prompt.
        other_prompts: share of the prompts that are another recording of the same speaker; the
            others are the beginning of the same one.
        prompt_s: shortest and longest prompt in seconds.
        voice_s: shortest and longest piece that the speaker embedding is taken from, in seconds.
    """

    folder: str
    sources: tuple[SourceConfig, ...]
    dev: str
    packed: tuple[str, ...] = ()
    dev_source: str = ""
    num_dev: int = 20
    batch_s: float = 24.0
    shortest_s: float = 0.6
    longest_s: float = 5.0
    prompt_batches: float = 0.5
    other_prompts: float = 0.6
    prompt_s: tuple[float, float] = (0.5, 3.0)
    voice_s: tuple[float, float] = (1.0, 3.0)

    def __post_init__(self) -> None:
        # Fewer tokens at the very end of a recording may have no frame of their own.
        shortest = (self.shortest_s, self.longest_s, self.prompt_s[0], self.voice_s[0])
        if min(shortest) < SHORTEST_PIECE_S:
            raise ConfigError(f"pieces, prompts and voices must last {SHORTEST_PIECE_S:g} s")


@dataclass(frozen=True)
class VoiceBatch:
    """One batch before its speakers are embedded.

    Attributes:
        tokens: [B, N], prompt first, padded with zeros.
        token_lens: [B].
        mel: [B, C, N * frames per token], padded with zeros.
        prompt_lens: [B], tokens of the prompt.
        voices: [B, F, bins] filter banks of another piece of the same speaker.
        voice_lens: frames of each.
        speakers: [B] index of the speaker.
        num_tokens: tokens without padding.
    """

    tokens: Tensor
    token_lens: Tensor
    mel: Tensor
    prompt_lens: Tensor
    voices: Tensor
    voice_lens: tuple[int, ...]
    speakers: Tensor
    num_tokens: int

    def to(self, device: torch.device) -> VoiceBatch:
        """The same on a device."""
        tensors = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return VoiceBatch(**vars(self) | tensors)

    def flow_batch(self, speaker: Tensor) -> FlowBatch:
        """The batch with its speaker embeddings [B, E]."""
        return FlowBatch(self.tokens, self.token_lens, self.mel, speaker)


@dataclass(frozen=True)
class _Piece:
    """Tokens [n] and mel [C, n * frames per token] of a piece of a recording."""

    tokens: Tensor
    mel: Tensor


@dataclass(frozen=True)
class _Example:
    piece: _Piece
    num_prompt: int
    voice: Tensor
    speaker: str


class FlowData:
    """Training batches and development recordings.

    Args:
        config: manifests and how they are cut.
        codes: audio tokens of all recordings.
        features: cache of mel and filter banks; what is missing is computed at once.
        tokens_per_s: rate of the audio tokens.
        frames_per_token: mel frames for every token.
        seed: of all choices.

    Raises:
        ConfigError: a source has no recording that is long enough.
    """

    def __init__(
        self,
        config: FlowDataConfig,
        codes: CodeSource,
        features: FeatureCache,
        *,
        tokens_per_s: float,
        frames_per_token: int,
        seed: int,
    ) -> None:
        self._config, self._codes, self._features = config, codes, features
        self._rate, self._factor, self._seed = tokens_per_s, frames_per_token, seed
        self._sources = [self._source(source) for source in config.sources]
        dev = [row for row in self._rows(config.dev) if config.dev_source in row.source]
        self.dev = dev[: config.num_dev]
        self._by_speaker: dict[str, list[ManifestRow]] = defaultdict(list)
        for row in (row for source in self._sources for row in source.rows):
            self._by_speaker[row.speaker].append(row)
        self.speakers = sorted(self._by_speaker)
        self._speaker_index = {name: i for i, name in enumerate(self.speakers)}
        for rows in (self.dev, *(source.rows for source in self._sources)):
            features.prepare(rows)

    def _rows(self, manifest: str) -> list[ManifestRow]:
        rows = read_manifest(Path(self._config.folder) / manifest)
        return [row for row in rows if row.duration >= self._config.shortest_s]

    def _source(self, config: SourceConfig) -> Source:
        rows = self._rows(config.manifest)
        if config.source is not None:
            rows = [row for row in rows if config.source in row.source]
        if not rows:
            raise ConfigError(
                f"{config.manifest}: no recording of {config.source or 'any source'} that lasts "
                f"{self._config.shortest_s:g} s"
            )
        return Source(rows, config.weight)

    # ---- whole recordings ----------------------------------------------------------------------

    def recording(self, row: ManifestRow) -> tuple[Tensor, Tensor]:
        """Audio tokens [n] and mel [C, n * frames per token] of a whole recording."""
        piece = self._piece(row, 0, len(self._codes.load(row)))
        return piece.tokens, piece.mel

    def voice(self, row: ManifestRow) -> Tensor:
        """Filter banks of a whole recording [F, bins]."""
        return self._features.fbank(row, 0, self._features.num_fbank_frames(row))

    def other_recording(self, row: ManifestRow, shortest_s: float) -> ManifestRow:
        """The first training recording of the same speaker that is long enough, else itself."""
        same = self._by_speaker.get(row.speaker, [])
        return next((r for r in same if r.duration >= shortest_s), row)

    # ---- batches -------------------------------------------------------------------------------

    def batches(self, first_step: int, workers: Workers) -> Iterator[tuple[int, VoiceBatch]]:
        """(step, batch) pairs of one process from `first_step` on."""
        planned = plan_batches(self._sources, self._config.batch_s, self._seed)
        for index, rows in enumerate(planned):
            step, rank = divmod(index, workers.count)
            if step >= first_step and rank == workers.rank:
                yield step, self.build(rows, index)

    def build(self, rows: Sequence[ManifestRow], index: int) -> VoiceBatch:
        """Cut and pad the recordings of one batch."""
        rng = np.random.default_rng((self._seed, index, 3))
        prompts = rng.random() < self._config.prompt_batches
        examples = [self._example(row, prompts, rng) for row in rows]
        pieces = [example.piece for example in examples]
        longest = max(len(piece.tokens) for piece in pieces)
        bands = pieces[0].mel.shape[0]
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        mel = torch.zeros(len(rows), bands, longest * self._factor)
        voices = torch.zeros(len(rows), max(len(e.voice) for e in examples), FBANK_BINS)
        for i, example in enumerate(examples):
            tokens[i, : len(example.piece.tokens)] = example.piece.tokens
            mel[i, :, : example.piece.mel.shape[1]] = example.piece.mel
            voices[i, : len(example.voice)] = example.voice
        return VoiceBatch(
            tokens,
            torch.tensor([len(piece.tokens) for piece in pieces]),
            mel,
            torch.tensor([example.num_prompt for example in examples]),
            voices,
            tuple(len(example.voice) for example in examples),
            torch.tensor([self._speaker_index[example.speaker] for example in examples]),
            sum(len(piece.tokens) for piece in pieces),
        )

    def _example(self, row: ManifestRow, prompts: bool, rng: np.random.Generator) -> _Example:
        config = self._config
        piece = self._random_piece(row, config.longest_s, rng)
        num_prompt = 0
        if prompts:
            wanted = int(rng.uniform(*config.prompt_s) * self._rate)
            if rng.random() < config.other_prompts:
                before = self._random_piece(self._another(row, rng), wanted / self._rate, rng)
                num_prompt = len(before.tokens)
                piece = _Piece(
                    torch.cat([before.tokens, piece.tokens]), torch.cat([before.mel, piece.mel], 1)
                )
            else:
                num_prompt = min(wanted, len(piece.tokens) // 2)
        voice = self._random_voice(self._another(row, rng), rng)
        return _Example(piece, num_prompt, voice, row.speaker)

    def _another(self, row: ManifestRow, rng: np.random.Generator) -> ManifestRow:
        same = self._by_speaker[row.speaker]
        chosen = same[int(rng.integers(len(same)))]
        if chosen is row:  # once more: most speakers have many recordings
            chosen = same[int(rng.integers(len(same)))]
        return chosen

    def _random_piece(self, row: ManifestRow, longest_s: float, rng: np.random.Generator) -> _Piece:
        size = len(self._codes.load(row))
        kept = min(size, max(1, int(longest_s * self._rate)))
        start = int(rng.integers(size - kept + 1))
        return self._piece(row, start, start + kept)

    def _piece(self, row: ManifestRow, start: int, stop: int) -> _Piece:
        tokens = torch.from_numpy(self._codes.load(row)[start:stop].astype(np.int64))
        frames = self._features.mel(row, start * self._factor, stop * self._factor)
        return _Piece(tokens, fit_frames(frames, len(tokens) * self._factor))

    def _random_voice(self, row: ManifestRow, rng: np.random.Generator) -> Tensor:
        size = self._features.num_fbank_frames(row)
        kept = min(size, int(rng.uniform(*self._config.voice_s) * _FBANK_RATE))
        start = int(rng.integers(size - kept + 1))
        return self._features.fbank(row, start, start + kept)
