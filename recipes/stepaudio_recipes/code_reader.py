"""Reader of audio codes: which phones they mean, as the judge of a speaking model.

It learns from the codes of recordings and of synthetic speech, under CTC. What it finds hard to
read is what recognisers find hard to hear: over eight takes of 40 sentences its loss correlated to
0.96 with that of nano's own phone head on the sound (see the model card).

Shape legend: B rows, S codes, D width, K phones and the blank.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.devices import resolve_device
from stepaudio.models.encoder import Latents, length_mask
from stepaudio.models.layers import rotary_tables
from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.s3_tokenizer import S3Config, TokenizerBlock
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.training.data import Source, plan_batches
from stepaudio_recipes.codes import CodeStore
from stepaudio_recipes.lexicon import PHONES, Lexicon
from stepaudio_recipes.speech_data import SourceConfig
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    half_precision,
    is_finished,
    read_average,
)

_log = logging.getLogger(__name__)
_WEIGHTS, _CONFIG = "reader.safetensors", "reader.json"
_MULTIPLE = 32  # lengths are padded to it: a CPU compiles a kernel for every new shape
_FIRST_SCALE = 0.3


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Shape of a reader.

    Attributes:
        num_codes: size of the codebook.
        width: of the transformer blocks.
        layers: number of blocks.
        heads: their attention heads.
        dropout: of their outputs while training.
    """

    num_codes: int = 729
    width: int = 128
    layers: int = 3
    heads: int = 4
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class CodeReaderConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "code_reader".
        output_dir: run folder; it also holds the result.
        folder: of the manifests.
        codes: folder of the audio codes, from the recipe ``codec``.
        sources: training mixture.
        dev: manifest and source of the development set.
        lexicon: pronunciation dictionary; rows with unknown words are left out.
        reader: shape.
        batch_s: padded seconds of speech in a batch.
        code_noise: share of the codes that are replaced at random, so that a single wrong code
            does not decide.
        bfloat16: compute in half precision.
        loop: length and optimiser.
        seed: of initialisation, data order and noise.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
    """

    recipe: Literal["code_reader"]
    output_dir: str
    folder: str
    codes: str
    sources: tuple[SourceConfig, ...]
    dev: SourceConfig
    loop: LoopConfig
    lexicon: str = ".data/nano/cmudict.dict.gz"
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    batch_s: float = 80.0
    code_noise: float = 0.05
    bfloat16: bool = False
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


Config = CodeReaderConfig


class CodeReader(nn.Module):
    """Audio codes to phone posteriors.

    Attributes:
        config: its shape.
        embed: [C, D] embeddings of the codes.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self._block = S3Config(
            n_audio_state=config.width,
            n_audio_head=config.heads,
            fsmn_kernel=15,
            mlp_ratio=2.0,
        )
        self.embed = nn.Embedding(config.num_codes, config.width)
        nn.init.normal_(self.embed.weight, std=_FIRST_SCALE)
        self.blocks = nn.ModuleList(TokenizerBlock(self._block) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.phones = nn.Linear(config.width, 1 + len(PHONES))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, embedded: Tensor, lens: Tensor) -> Latents:
        """Log-probabilities [B, S, K] of embedded codes [B, S, D] with `lens` [B] valid ones."""
        positions = torch.arange(embedded.shape[1], device=embedded.device)
        width = self.config.width // self.config.heads
        rotary = rotary_tables(positions, width, self._block.rope_theta)
        mask = length_mask(lens, embedded.shape[1])
        x = self.dropout(embedded)
        for block in self.blocks:
            x = self.dropout(block(x, rotary, mask))
        return Latents(self.phones(self.norm(x)).float().log_softmax(-1), lens)

    def read(self, codes: Sequence[Sequence[int]]) -> Latents:
        """Log-probabilities of rows of codes."""
        ids, lens = padded_codes(codes)
        device = self.embed.weight.device
        return self(self.embed(ids.to(device)), lens.to(device))


def padded_codes(codes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of codes as int64 [B, S], and their lengths [B]."""
    lens = [len(row) for row in codes]
    ids = torch.zeros(len(codes), padded_length(max(lens)), dtype=torch.long)
    for place, row in zip(ids, codes, strict=True):
        place[: len(row)] = torch.as_tensor(np.asarray(row, np.int64))
    return ids, torch.tensor(lens)


def padded_length(size: int) -> int:
    """Length that a row of `size` is padded to."""
    return -(-size // _MULTIPLE) * _MULTIPLE


def reading_losses(posteriors: Latents, targets: Sequence[Sequence[int]]) -> Tensor:
    """CTC loss a phone [B]; zero where there are more phones than codes.

    Args:
        posteriors: of the codes.
        targets: CTC indices of the phones of every row, at least one.
    """
    device = posteriors.values.device
    lens = torch.tensor([len(row) for row in targets], device=device)
    padded = torch.zeros(len(targets), int(lens.max()), dtype=torch.long, device=device)
    for place, row in zip(padded, targets, strict=True):
        place[: len(row)] = torch.tensor(list(row))
    losses = F.ctc_loss(
        posteriors.values.transpose(0, 1),
        padded,
        posteriors.lengths,
        lens,
        reduction="none",
        zero_infinity=True,
    )
    return losses / lens


@dataclass(frozen=True)
class _Batch:
    """Codes [B, S] with lengths [B], and their phones."""

    codes: Tensor
    lens: Tensor
    targets: list[list[int]]


class ReaderData:
    """Batches as a function of seed and step."""

    def __init__(self, config: CodeReaderConfig) -> None:
        self._config = config
        self._store = CodeStore(config.codes)
        self._lexicon = Lexicon.read(Path(config.lexicon))
        self._sources = [Source(self._rows(source), source.weight) for source in config.sources]
        self.dev = self._rows(config.dev)

    def _rows(self, source: SourceConfig) -> list[ManifestRow]:
        rows = read_manifest(Path(self._config.folder) / source.manifest)
        chosen = [row for row in rows if source.source is None or source.source in row.source]
        return [row for row in chosen if self._is_readable(row)]

    def _is_readable(self, row: ManifestRow) -> bool:
        targets = self._lexicon.targets(row.text)
        return 0 < 2 * len(targets) < len(self._store.load(row))

    def batches(self, first_step: int, workers: Workers) -> Iterator[tuple[int, _Batch]]:
        """(step, batch) pairs of one process from `first_step` on."""
        config = self._config
        for index, rows in enumerate(plan_batches(self._sources, config.batch_s, config.seed)):
            step, rank = divmod(index, workers.count)
            if step >= first_step and rank == workers.rank:
                yield step, self.build(rows, np.random.default_rng((config.seed, index, 1)))

    def build(self, rows: Sequence[ManifestRow], rng: np.random.Generator | None) -> _Batch:
        """Codes of some rows, with noise if there is an `rng`."""
        codes, lens = padded_codes([self._store.load(row).tolist() for row in rows])
        if rng is not None:
            noisy = torch.from_numpy(rng.random(codes.shape) < self._config.code_noise)
            drawn = rng.integers(0, self._config.reader.num_codes, codes.shape)
            codes = torch.where(noisy, torch.from_numpy(drawn), codes)
        return _Batch(codes, lens, [self._lexicon.targets(row.text) for row in rows])


def train(config: CodeReaderConfig, workers: Workers) -> list[float]:
    """Train a reader; returns the losses of the steps run here.

    Raises:
        ConfigError: codes, manifests or the lexicon are missing.
    """
    device = resolve_device(config.device)
    torch.manual_seed(config.seed)
    reader = CodeReader(config.reader).to(device)
    trainer: Trainer[_Batch] = Trainer(
        reader, config.loop, Path(config.output_dir), device, workers
    )
    trainer.resume()
    data = ReaderData(config)

    def losses_of(batch: _Batch) -> Tensor:
        with half_precision(device, enabled=config.bfloat16):
            posteriors = reader(reader.embed(batch.codes.to(device)), batch.lens.to(device))
        return reading_losses(posteriors, batch.targets)

    def loss_fn(batch: _Batch) -> StepResult:
        return StepResult(losses_of(batch).mean(), {}, int(batch.lens.sum()))

    def evaluate() -> Mapping[str, float]:
        return {"dev/ctc": float(losses_of(data.build(data.dev, None)).mean())}

    return trainer.run(data.batches(trainer.step, workers), loss_fn, evaluate)


def export(config: CodeReaderConfig) -> None:
    """Write the averaged weights."""
    folder = Path(config.output_dir)
    tensors = {name: value.contiguous() for name, value in read_average(folder).items()}
    write_bytes_atomic(folder / _WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))
    write_text_atomic(folder / _CONFIG, json.dumps(asdict(config.reader), indent=2) + "\n")
    _log.info("reader written to %s", folder)


def load_reader(folder: str | Path) -> CodeReader:
    """A trained reader, which is not trained any further.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    folder = Path(folder)
    try:
        config = ReaderConfig(**json.loads((folder / _CONFIG).read_text()))
    except OSError as error:
        raise CheckpointError(f"{folder}: no reader; run the recipe code_reader") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / _CONFIG}: damaged: {error}") from error
    reader = CodeReader(config)
    load_strict(reader, read_tensors(folder / _WEIGHTS), folder / _WEIGHTS)
    return reader.requires_grad_(False).eval()


def main(config: CodeReaderConfig) -> list[float]:
    """Train the reader and write it; returns the losses.

    Raises:
        ConfigError: codes, manifests or the lexicon are missing.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if not 0 <= config.code_noise < 1:
        raise ConfigError(f"code_noise must be from 0 to below 1, got {config.code_noise}")
    workers = Workers.join()
    losses: list[float] = []
    if not is_finished(Path(config.output_dir), config.loop.steps):
        losses = train(config, workers)
    if workers.is_main:
        export(config)
    return losses
