"""Reinforcement of a speaking model: it learns to say what a reader of audio codes understands.

In every round the model says new sentences, most of them without any recording. A reader
(`stepaudio_recipes.code_reader`) says how well their phones can be read from the codes, and the
gradient of that goes through the sampled codes to the distribution they came from (DiffRO of
CosyVoice 3, arXiv 2505.17589). A divergence from the model that was started with keeps the voice.
Only the adapter and the rows of speech in the embedding table are trained: recognition stays as it
is, bit by bit.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.errors import ConfigError
from stepaudio.models.adapters import (
    ADAPTER_FOLDER,
    LoraConfig,
    adapter_of,
    load_adapter,
    save_adapter,
)
from stepaudio.models.checkpoint import load_pretrained, pretrained_folder, save_checkpoint
from stepaudio.models.devices import resolve_device
from stepaudio.models.encoder import Latents, length_mask
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.text.manifest import read_manifest
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import Vocabulary
from stepaudio.training.speech_reward import policy_divergence, straight_through_codes
from stepaudio_recipes.code_reader import CodeReader, load_reader, padded_length, reading_losses
from stepaudio_recipes.speech_data import SourceConfig
from stepaudio_recipes.speech_pretrain import with_speech_rows
from stepaudio_recipes.spoken_takes import (
    Request,
    RequestConfig,
    Requests,
    SpokenTake,
    read_takes,
    say,
    write_takes,
)
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    half_precision,
    is_finished,
    read_average,
)
from stepaudio_recipes.tts_stage import SpeechDecoder

_log = logging.getLogger(__name__)
_DEV_SENTENCES = 48


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What is rewarded.

    Attributes:
        divergence_weight: of the divergence from the model that was started with.
        temperature: of the distribution that the gradient goes to.
        worst: largest loss of a take, in nats a phone; worse ones teach nothing.
    """

    divergence_weight: float = 0.15
    temperature: float = 0.7
    worst: float = 6.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.divergence_weight < 0:
            raise ConfigError("reward needs a positive temperature and no negative weight")


@dataclass(frozen=True, kw_only=True)
class SpeechRewardConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "speech_reward".
        output_dir: run folder; ``model`` in it holds the result.
        reader: folder of the recipe ``code_reader``.
        requests: what the model is asked to say.
        dev: recordings whose sentences the evaluations say.
        loop: length and optimiser.
        start: name or folder of a model that reads aloud.
        adapter: its adapter that speaks.
        reward: what is rewarded.
        round_takes: sentences of a round; the model says new ones behind every round.
        batch_takes: sentences of an optimiser step.
        num_slots: sentences that are generated together.
        bfloat16: compute in half precision.
        seed: of the sentences and of dropout.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
    """

    recipe: Literal["speech_reward"]
    output_dir: str
    reader: str
    requests: RequestConfig
    dev: SourceConfig
    loop: LoopConfig
    start: str = "nano"
    adapter: str = "tts"
    reward: RewardConfig = field(default_factory=RewardConfig)
    round_takes: int = 640
    batch_takes: int = 8
    num_slots: int = 16
    bfloat16: bool = False
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.batch_takes <= self.round_takes:
            raise ConfigError("batch_takes must be from 1 to round_takes")

    @property
    def round_steps(self) -> int:
        """Optimiser steps of a round."""
        return self.round_takes // self.batch_takes


Config = SpeechRewardConfig


class Policy:
    """A speaking model in training, and how it is written.

    Attributes:
        decoder: its adapter and its rows of speech are trained.
        vocab: its vocabulary.
        first_code: place of the first audio code among the decoder's logits.
    """

    def __init__(self, start: str, adapter: str, device: torch.device) -> None:
        """Load it; errors as `load_pretrained`."""
        self._start = pretrained_folder(start)
        self._adapter = adapter
        self._device = device
        self.tokenizer = TextTokenizer.from_folder(self._start)
        self.vocab: Vocabulary = self.tokenizer.vocab
        self.first_row = self.vocab.audio_patch + 1
        self.first_code = self.vocab.audio_0 - self.first_row
        self.decoder, self._lora = self._load()

    def _load(self) -> tuple[SpeechDecoder, LoraConfig]:
        model = self._foundation()
        table = model.model.embed_tokens.weight.detach().clone()
        adapter = load_adapter(self._start / ADAPTER_FOLDER / self._adapter)
        decoder = SpeechDecoder(
            model.model, self.first_row, len(table) - self.first_row, adapter.config
        ).to(self._device)
        parameters = dict(decoder.backbone.named_parameters())
        with torch.no_grad():
            for name, tensor in adapter.tensors.items():
                parameters[name].copy_(tensor)
            decoder.rows.copy_(table[self.first_row :])
        return decoder, adapter.config

    def _foundation(self) -> Any:
        return load_pretrained(self._start, device=self._device)[0].float()

    def write(self, folder: Path) -> None:
        """Write the whole model as it is now, in half precision."""
        shutil.copytree(self._start, folder, dirs_exist_ok=True)
        model = self._foundation().cpu()
        rows = self.decoder.rows.detach().cpu()
        with_speech_rows(model, self.tokenizer, self.first_row, rows)
        save_checkpoint(model.half(), folder)
        adapter = adapter_of(self.decoder.backbone, self._lora)
        save_adapter(adapter, folder / ADAPTER_FOLDER / self._adapter)

    def code_logits(self, ids: Tensor, is_code: Tensor) -> Tensor:
        """Logits [N, C] that the codes of some rows were sampled from.

        Args:
            ids: [B, T] prompts and answers.
            is_code: [B, T], where an audio code is.
        """
        before = F.pad(is_code, (0, 1))[:, 1:]
        logits = self.decoder.logits(self.decoder(ids)[before]).float()
        return logits[:, self.first_code : self.first_code + self.vocab.num_codes]


@dataclass(frozen=True)
class TakeBatch:
    """Right-padded takes.

    Attributes:
        ids: [B, T] prompts and answers.
        is_code: [B, T], where an audio code is.
        targets: CTC indices of the phones of every take.
    """

    ids: Tensor
    is_code: Tensor
    targets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, takes: Sequence[SpokenTake], vocab: Vocabulary) -> TakeBatch:
        """Pad some takes."""
        longest = max(len(take.prompt) + len(take.answer) for take in takes)
        ids = torch.full((len(takes), padded_length(longest)), vocab.pad)
        is_code = torch.zeros(ids.shape, dtype=torch.bool)
        for row, take in enumerate(takes):
            start, stop = len(take.prompt), len(take.prompt) + len(take.answer)
            ids[row, :stop] = torch.tensor([*take.prompt, *take.answer])
            is_code[row, start:stop] = torch.tensor([vocab.is_audio(i) for i in take.answer])
        return cls(ids, is_code, tuple(take.targets for take in takes))


def reward_losses(
    policy: Policy, reference: Policy, reader: CodeReader, batch: TakeBatch, config: RewardConfig
) -> tuple[Tensor, Tensor]:
    """Mean loss of the reader in nats a phone, and divergence from the reference in nats a code."""
    device = reader.embed.weight.device
    ids, is_code = batch.ids.to(device), batch.is_code.to(device)
    logits = policy.code_logits(ids, is_code)
    with torch.no_grad():
        started_with = reference.code_logits(ids, is_code)
    codes = ids[is_code] - policy.vocab.audio_0
    chosen = straight_through_codes(logits, codes, config.temperature)
    embedded = chosen @ reader.embed.weight
    lens = is_code.sum(1)
    size = padded_length(int(lens.max()))
    rows = embedded.new_zeros(len(lens), size, embedded.shape[1])
    rows = rows.masked_scatter(length_mask(lens, size)[..., None], embedded)
    posteriors: Latents = reader(rows, lens)
    losses = reading_losses(posteriors, batch.targets).clamp(max=config.worst)
    return losses.mean(), policy_divergence(logits, started_with)


class Rounds:
    """Batches of takes as a function of seed and step; the takes of a round are kept in a file."""

    def __init__(self, config: SpeechRewardConfig, policy: Policy) -> None:
        self._config, self._policy = config, policy
        self._folder = Path(config.output_dir)
        model = StepAudio.from_pretrained(config.start, lazy=True)
        paces = tuple(model.config.speech.styles or ())
        self._requests = Requests(config.requests, paces)
        rows = read_manifest(Path(config.requests.folder) / config.dev.manifest)
        source = config.dev.source
        texts = [row.text for row in rows if source is None or source in row.source]
        voice = next(iter(config.requests.voices), None)
        self.dev = self._requests.of_texts(texts, voice)[:_DEV_SENTENCES]

    def say(self, requests: Sequence[Request]) -> list[SpokenTake]:
        """Have the policy as it is now say sentences."""
        folder = self._folder / "speaker"
        self._policy.write(folder)
        model = StepAudio.from_pretrained(folder, device=self._config.device)
        return say(model, requests, self._config.num_slots)

    def _takes(self, number: int) -> list[SpokenTake]:
        path = self._folder / "takes" / f"{number:03}.jsonl"
        if not path.exists():
            rng = np.random.default_rng((self._config.seed, number, 0))
            takes = self.say(self._requests.draw(self._config.round_takes, rng))
            if not takes:
                raise ConfigError(f"{self._config.start}: no sentence came to its end")
            path.parent.mkdir(exist_ok=True)
            write_takes(path, takes)
        return read_takes(path)

    def batches(self, first_step: int) -> Iterator[tuple[int, TakeBatch]]:
        """(step, batch) pairs from `first_step` on."""
        size, steps = self._config.batch_takes, self._config.round_steps
        for number in range(first_step // steps, self._config.loop.steps // steps + 1):
            takes = self._takes(number)
            rng = np.random.default_rng((self._config.seed, number, 1))
            order = np.resize(rng.permutation(len(takes)), size * steps)
            for index in range(steps):
                step = number * steps + index
                if step >= first_step:
                    chosen = [takes[i] for i in order[index * size : (index + 1) * size]]
                    yield step, TakeBatch.of(chosen, self._policy.vocab)


def train(config: SpeechRewardConfig, policy: Policy, device: torch.device) -> list[float]:
    """Train a policy; returns the losses of the steps run here."""
    reference = Policy(config.start, config.adapter, device)
    reference.decoder.requires_grad_(False).eval()
    reader = load_reader(config.reader).to(device)
    if reader.config.num_codes != policy.vocab.num_codes:
        raise ConfigError(
            f"{config.reader}: reads {reader.config.num_codes} codes, not those of {config.start}"
        )
    trainer: Trainer[TakeBatch] = Trainer(
        policy.decoder, config.loop, Path(config.output_dir), device
    )
    trainer.resume()
    rounds = Rounds(config, policy)

    def loss_fn(batch: TakeBatch) -> StepResult:
        torch.manual_seed(config.seed + trainer.step)  # a resumed run draws the same dropout
        reader.train()  # which keeps the policy from pleasing one reader only
        with half_precision(device, enabled=config.bfloat16):
            reading, divergence = reward_losses(policy, reference, reader, batch, config.reward)
        loss = reading + config.reward.divergence_weight * divergence
        metrics = {"reading": float(reading.detach()), "divergence": float(divergence.detach())}
        return StepResult(loss, metrics, int(batch.is_code.sum()))

    def evaluate() -> Mapping[str, float]:
        reader.eval()
        takes = rounds.say(rounds.dev)
        if not takes:
            return {}
        losses = reading_losses(reader.read([t.codes for t in takes]), [t.targets for t in takes])
        return {"dev/reading": float(losses.mean()), "dev/takes": len(takes)}

    return trainer.run(rounds.batches(trainer.step), loss_fn, evaluate)


def main(config: SpeechRewardConfig) -> list[float]:
    """Train the model that speaks and write it; returns the losses.

    Raises:
        ConfigError: a file that the configuration names is missing or damaged.
        CheckpointError: the model or the reader cannot be loaded.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if Workers.join().count > 1:
        raise ConfigError("speech_reward runs in one process")
    device = resolve_device(config.device)
    folder = Path(config.output_dir)
    policy = Policy(config.start, config.adapter, device)
    losses: list[float] = []
    if not is_finished(folder, config.loop.steps):
        losses = train(config, policy, device)
    known = dict(policy.decoder.named_parameters())
    with torch.no_grad():
        for name, value in read_average(folder).items():
            known[name].copy_(value)
    policy.write(folder / "model")
    _log.info("model written to %s", folder / "model")
    return losses
