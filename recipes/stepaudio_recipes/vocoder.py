"""Training of the source-filter vocoder: recordings to mel and back, with a known pitch.

The pulses follow the tracked pitch in training and the predicted one afterwards, so that spectra
can be compared harmonic by harmonic from the first step on.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.errors import ConfigError
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.source_filter_vocoder import SourceFilterVocoder, prepare_inference
from stepaudio.models.token2wav.vocoder_checkpoint import write_vocoder_config
from stepaudio.text.manifest import read_manifest
from stepaudio.training.data import SampleStore
from stepaudio.training.spectral_losses import (
    expected_error,
    f0_error_cents,
    multi_resolution_loss,
    pitch_loss,
    voicing_loss,
)
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    is_finished,
    read_average,
)
from stepaudio_recipes.vocoder_data import VoiceBatch, VoiceData, VoiceDataConfig, load_samples

_log = logging.getLogger(__name__)
WEIGHTS_FILE, CONFIG_FILE = "vocoder.safetensors", "vocoder.json"


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses.

    Attributes:
        n_ffts: window sizes of the compared spectra.
        floor: magnitudes far below are silence.
        repulsion: how much noise two draws of a sound are encouraged to differ in; 0: a voice
            buzzes, 1: its upper harmonics drown in noise.
        linear: weight of the magnitudes.
        logarithmic: weight of their logarithms.
        mel: weight of the log-mel.
        pitch: weight of the distribution of F0.
        cents: weight of the deviation of its mean, in semitones.
        voicing: weight of the decision on voicing.
    """

    n_ffts: tuple[int, ...] = (256, 512, 1024, 2048)
    floor: float = 2e-4
    repulsion: float = 1.0
    linear: float = 0.3
    logarithmic: float = 1.0
    mel: float = 1.0
    pitch: float = 0.2
    cents: float = 0.2
    voicing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "vocoder".
        output_dir: run folder.
        data: recordings.
        loop: length and optimiser.
        model: architecture.
        mel: features, which must be those of the model.
        losses: what is minimised.
        seed: seed of initialisation, data and noise.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
        dev_rows: recordings that an evaluation resynthesises.
    """

    recipe: Literal["vocoder"]
    output_dir: str
    data: VoiceDataConfig
    loop: LoopConfig
    model: SourceFilterConfig = field(default_factory=SourceFilterConfig)
    mel: VoiceMel = field(default_factory=VoiceMel)
    losses: LossConfig = field(default_factory=LossConfig)
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dev_rows: int = 12

    def __post_init__(self) -> None:
        model, mel = self.model, self.mel
        facts = {
            "mel bands": (model.in_channels, mel.num_mels),
            "sample rate": (model.sampling_rate, mel.sample_rate),
            "hop": (model.hop_length, mel.hop),
            "highest frequency": (model.highest_mel_hz, mel.highest_hz),
        }
        for name, values in facts.items():
            if len(set(values)) > 1:
                raise ConfigError(f"{name} of model and mel differ: {values[0]} and {values[1]}")


Config = VocoderConfig


def training_loss(
    vocoder: SourceFilterVocoder, batch: VoiceBatch, config: VocoderConfig, step: int
) -> StepResult:
    """Resynthesise a batch twice, with different noise, and compare.

    Args:
        vocoder: in training.
        batch: stretches of recordings.
        config: weights of the losses.
        step: the noise depends on it.
    """
    weights, rows = config.losses, len(batch.wav)
    controls = vocoder.controls(batch.mel)
    sounds = [
        vocoder(controls.filters, batch.f0, batch.voiced, noise_seeds(config.seed, draw, rows))
        for draw in (2 * step, 2 * step + 1)
    ]
    linear, logarithmic = multi_resolution_loss(
        sounds,
        batch.wav,
        weights.n_ffts,
        highest_hz_B=batch.highest_hz,
        sample_rate=vocoder.sample_rate,
        floor=weights.floor,
        repulsion=weights.repulsion,
    )
    mels = [config.mel(sound) for sound in sounds]
    mel = expected_error(mels, config.mel(batch.wav), repulsion=weights.repulsion).mean()
    bins = vocoder.network.log_f0_bins(controls.f0)
    pitch = pitch_loss(controls.pitch_logits, bins, batch.f0, batch.voiced)
    cents = f0_error_cents(controls.f0, batch.f0, batch.voiced)
    voicing = voicing_loss(controls.voicing, batch.voiced)
    loss = (
        weights.linear * linear
        + weights.logarithmic * logarithmic
        + weights.mel * mel
        + weights.pitch * pitch
        + weights.cents * cents / 100
        + weights.voicing * voicing
    )
    parts = {
        "linear": linear,
        "log": logarithmic,
        "mel": mel,
        "pitch": pitch,
        "cents": cents,
        "voicing": voicing,
    }
    metrics = {name: float(value.detach()) for name, value in parts.items()}
    return StepResult(loss, metrics, batch.f0.numel())


def noise_seeds(seed: int, draw: int, rows: int) -> list[int]:
    """Seeds of a batch's noise, none of which another draw has."""
    return [seed + draw * rows + row for row in range(rows)]


def development_recordings(config: VocoderConfig) -> list[Tensor]:
    """Recordings for evaluations, whole hops of each."""
    rows = read_manifest(Path(config.data.folder) / config.data.dev)
    wanted = config.data.dev_source
    rows = [row for row in rows if wanted is None or wanted in row.source][: config.dev_rows]
    store, hop = SampleStore(), config.mel.hop
    wavs = [load_samples(row, config.mel.sample_rate, store) for row in rows]
    return [wav[: len(wav) // hop * hop] for wav in wavs]


def resynthesis_scores(
    vocoder: SourceFilterVocoder, wavs: list[Tensor], config: VocoderConfig
) -> dict[str, float]:
    """Distances of recordings to themselves through the mel, with the predicted pitch."""
    ready = prepare_inference(copy.deepcopy(vocoder).cpu())
    scores: dict[str, float] = {"dev/mel": 0.0, "dev/log": 0.0}
    for wav in wavs:
        mel = config.mel(wav)[None]
        sound = ready.synthesise(mel, [mel.shape[-1]], seeds=[config.seed])
        _, logarithmic = multi_resolution_loss(
            [sound],
            wav[None],
            config.losses.n_ffts,
            highest_hz_B=torch.tensor([config.mel.highest_hz]),
            sample_rate=config.mel.sample_rate,
            floor=config.losses.floor,
        )
        scores["dev/mel"] += float((config.mel(sound) - mel).abs().mean()) / len(wavs)
        scores["dev/log"] += float(logarithmic) / len(wavs)
    return scores


def main(config: VocoderConfig) -> list[float]:
    """Train, or go on training, and write the vocoder; returns the losses of the steps run here.

    Raises:
        ConfigError: recordings are missing, or pyworld is not installed.
        AudioLoadError: a recording cannot be read.
        CheckpointError: the run folder belongs to another model.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    torch.set_float32_matmul_precision("high")
    folder = Path(config.output_dir)
    losses: list[float] = []
    if is_finished(folder, config.loop.steps):
        _log.info("%s is finished", folder)
    else:
        losses = train(config)
    export(config)
    return losses


def train(config: VocoderConfig) -> list[float]:
    """Train from scratch or from the run's checkpoint; returns the losses of the steps run here."""
    torch.manual_seed(config.seed)
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    workers = Workers.join()
    device = torch.device("cuda", workers.rank) if wanted == "cuda" else torch.device("cpu")
    vocoder = SourceFilterVocoder(config.model).to(device)
    trainer: Trainer[VoiceBatch] = Trainer(
        vocoder, config.loop, Path(config.output_dir), device, workers
    )
    trainer.resume()
    data = VoiceData(config.data, config.mel, config.model, config.seed)
    dev = development_recordings(config)

    def loss_fn(batch: VoiceBatch) -> StepResult:
        index = trainer.step * workers.count + workers.rank
        return training_loss(vocoder, batch.to(device), config, index)

    def evaluate() -> Mapping[str, float]:
        return resynthesis_scores(vocoder, dev, config)

    return trainer.run(data.batches(trainer.step, workers), loss_fn, evaluate)


def export(config: VocoderConfig) -> Path:
    """Write the averaged weights in half precision, and the configuration that loads them.

    Returns:
        The file of weights.

    Raises:
        CheckpointError: the run has no checkpoint.
        OutputError: a file cannot be written.
    """
    folder = Path(config.output_dir)
    tensors = {
        name: tensor.detach().cpu().half().contiguous()
        for name, tensor in read_average(folder).items()
    }
    path = folder / WEIGHTS_FILE
    write_bytes_atomic(path, safetensors.torch.save(tensors, {"format": "pt"}))
    values = write_vocoder_config(config.model)
    write_text_atomic(folder / CONFIG_FILE, json.dumps(values, indent=2) + "\n")
    _log.info("vocoder written to %s", path)
    return path
