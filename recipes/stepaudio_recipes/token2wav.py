"""Flow of a detokenizer and its speaker encoder: audio tokens and a voice to mel.

Both are trained together, because the flow's error says best what an embedding must tell. Chunks,
left context and prompts are drawn anew for every batch, so that one model serves any schedule of
the streaming mode "exact".
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.devices import resolve_device
from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.flow_checkpoint import load_flow
from stepaudio.models.token2wav.flow_config import FlowConfig
from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.mel_decoder import mel_decoder
from stepaudio.models.token2wav.speaker import (
    SpeakerConfig,
    SpeakerNetwork,
    load_speaker_network,
)
from stepaudio.training.losses import FlowTraining, draw_flow, flow_matching_loss, speaker_loss
from stepaudio_recipes.codes import CodeStore
from stepaudio_recipes.flow_data import CodeSource, FlowData, FlowDataConfig, TwinCodes, VoiceBatch
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    half_precision,
    read_average,
)
from stepaudio_recipes.voice_features import FeatureCache

_log = logging.getLogger(__name__)
_STAGE = "train"
_FLOW, _SPEAKER, _CONFIG = "flow.safetensors", "speaker.safetensors", "flow.json"
_PARAMETRIZED = "flow.input_embedding.parametrizations.weight"
_EVALUATION_PROMPT_S = 3.0
_TOKEN_NOISE_SALT = 4
_FIRST_GATE = 0.5


@dataclass(frozen=True, kw_only=True)
class Token2WavConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "token2wav".
        output_dir: run folder; ``model`` in it holds the result.
        codes: folder of the audio tokens that the ``codec`` recipe wrote.
        features: folder of the cached mels and filter banks.
        flow: the flow; its streaming section is what the trained model runs with.
        speaker: the speaker encoder.
        data: manifests and mixture.
        loop: length and optimiser.
        training: what the flow sees; prompts come from `data`.
        mel: the mel between flow and vocoder.
        speaker_weight: weight of the classification of the training's speakers.
        prior_weight: weight of the encoder's guess of the mel, see `FlowLosses`.
        token_noise: share of the audio tokens that are replaced at random, so that single wrong
            tokens of a language model do little harm.
        start: folder of a detokenizer of the same architecture that training begins with; None:
            fresh weights.
        start_codes: also take the embeddings of its audio tokens: they come from the same codec.
        code_levels: values of every digit of a code. With them the embedding of a code begins as,
            and learns like, a sum over its digits and their pairs, so that what is learnt of one
            code helps all that resemble it.
        bfloat16: compute in half precision on a CPU too, where it has instructions for it.
        seed: seed of initialisation and of every draw.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
    """

    recipe: Literal["token2wav"]
    output_dir: str
    codes: str
    features: str
    flow: FlowConfig
    speaker: SpeakerConfig
    data: FlowDataConfig
    loop: LoopConfig
    training: FlowTraining = field(default_factory=FlowTraining)
    mel: VoiceMel = field(default_factory=VoiceMel)
    speaker_weight: float = 0.1
    prior_weight: float = 0.0
    token_noise: float = 0.0
    start: str | None = None
    start_codes: bool = False
    code_levels: tuple[int, ...] = ()
    bfloat16: bool = False
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if self.flow.spk_embed_dim != self.speaker.embedding_size:
            raise ConfigError("flow.spk_embed_dim and speaker.embedding_size differ")
        if self.flow.output_size != self.mel.num_mels:
            raise ConfigError("flow.output_size and mel.num_mels differ")
        if self.mel.sample_rate % (self.mel.hop * self.flow.frames_per_token):
            raise ConfigError("a second of mel must have a whole number of audio tokens")

    @property
    def tokens_per_s(self) -> int:
        """Rate of the audio tokens."""
        return self.mel.sample_rate // (self.mel.hop * self.flow.frames_per_token)


Config = Token2WavConfig


class FlowAndSpeaker(nn.Module):
    """What is trained together.

    Attributes:
        flow: audio tokens to mel.
        speaker: filter banks to embedding.
        centres: directions of the training's speakers, not kept.
    """

    def __init__(self, config: Token2WavConfig, num_speakers: int) -> None:
        super().__init__()
        self.flow = Flow(config.flow)
        self.speaker = SpeakerNetwork(config.speaker)
        self.centres = nn.Parameter(torch.randn(num_speakers, config.speaker.embedding_size))


def initialise(model: FlowAndSpeaker, mean_mel: Tensor) -> None:
    """Begin with the mean mel [C] as velocity and with open residual branches.

    The velocity from noise to mel is the mel on average. Gates near zero, as by default, let
    almost no gradient into the blocks at first.
    """
    estimator = model.flow.decoder.estimator
    width = estimator.config.hidden_size
    with torch.no_grad():
        estimator.final_layer.linear.bias.copy_(mean_mel)
        for block in estimator.blocks:
            bias = block.get_submodule("adaLN_modulation.1").get_parameter("bias")
            for gate in (2, 5, 8):  # third of each: shift, scale, gate
                bias[gate * width : (gate + 1) * width] = _FIRST_GATE


@dataclass(frozen=True)
class Run:
    """One run of the recipe: its settings, data, model and device."""

    config: Token2WavConfig
    data: FlowData
    model: FlowAndSpeaker
    device: torch.device

    def loss(self, batch: VoiceBatch, step: int) -> StepResult:
        """Flow matching and speaker classification of one batch."""
        config, model = self.config, self.model
        batch = batch.to(self.device)
        seed = hash_seed(config.seed, step)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # of the dropout: a run that is resumed draws what it would have
        tokens = replaced_tokens(batch, config.token_noise, config.flow.vocab_size, generator)
        half = config.bfloat16 or self.device.type == "cuda"
        with half_precision(self.device, enabled=half):
            embedding = model.speaker(batch.voices, batch.voice_lens)
            flow_batch = replace(batch.flow_batch(embedding), tokens=tokens)
            draw = draw_flow(flow_batch, config.training, generator)
            draw = replace(draw, prompt_lens=batch.prompt_lens)
            matching, prior = flow_matching_loss(model.flow, flow_batch, draw, with_prompt=False)
            identity = speaker_loss(embedding.float(), model.centres, batch.speakers)
        loss = matching + config.prior_weight * prior + config.speaker_weight * identity
        metrics = {
            "flow": float(matching.detach()),
            "prior": float(prior.detach()),
            "speaker": float(identity.detach()),
        }
        return StepResult(loss, metrics, batch.num_tokens)

    def evaluate(self) -> Mapping[str, float]:
        """Mean distance of the mel of the development recordings, without and with a prompt."""
        return {
            "mel": mel_distance(self.model, self.data, prompt=False),
            "mel_prompt": mel_distance(self.model, self.data, prompt=True),
        }


def hash_seed(seed: int, step: int) -> int:
    """One seed of two numbers."""
    return int(np.random.SeedSequence((seed, step, _TOKEN_NOISE_SALT)).generate_state(1)[0])


def replaced_tokens(
    batch: VoiceBatch, share: float, vocab_size: int, generator: torch.Generator
) -> Tensor:
    """The tokens of a batch, a share of them replaced by random ones."""
    if not share:
        return batch.tokens
    shape = batch.tokens.shape
    chosen = torch.rand(shape, generator=generator) < share
    others = torch.randint(vocab_size, shape, generator=generator)
    device = batch.tokens.device
    return torch.where(chosen.to(device), others.to(device), batch.tokens)


def mel_distance(model: FlowAndSpeaker, data: FlowData, *, prompt: bool) -> float:
    """Mean absolute difference of the streamed mel of `data.dev` to the true one, in nepers."""
    decoder = mel_decoder(model.flow, model.flow.config.streaming.mode)
    device = model.flow.device
    total, count = 0.0, 0
    for row in data.dev:
        tokens, mel = data.recording(row)
        other = data.other_recording(row, _EVALUATION_PROMPT_S)
        fbank = data.voice(other)
        speaker = model.speaker(fbank[None].to(device), [len(fbank)])[0]
        given = data.recording(other) if prompt else (tokens[:0], mel[:, :0])
        voice = decoder.prepare(VoicePrompt(*given, speaker))
        made = decoder.generate(tokens, voice).float().cpu()
        total += float((made - mel).abs().sum())
        count += mel.numel()
    return total / max(count, 1)


def build_run(config: Token2WavConfig, codes: CodeSource, device: torch.device) -> Run:
    """Read the data and build the untrained model."""
    features = FeatureCache(Path(config.features), config.mel)
    data = FlowData(
        config.data,
        TwinCodes(codes, Path(config.data.folder), config.data.packed),
        features,
        tokens_per_s=config.tokens_per_s,
        frames_per_token=config.flow.frames_per_token,
        seed=config.seed,
    )
    torch.manual_seed(config.seed)
    model = FlowAndSpeaker(config, len(data.speakers))
    _, batch = next(data.batches(0, Workers()))
    initialise(
        model, batch.mel.sum(dim=(0, 2)) / (batch.token_lens.sum() * config.flow.frames_per_token)
    )
    if config.start is not None:
        begin_with(model, Path(config.start), codes=config.start_codes)
    if config.code_levels:
        digits = DigitSums(config.code_levels, config.flow.input_size)
        register_parametrization(model.flow.input_embedding, "weight", digits)
    return Run(config, data, model.to(device), device)


def begin_with(model: FlowAndSpeaker, folder: Path, *, codes: bool) -> None:
    """Take over the weights of a trained flow and speaker encoder; token embeddings if `codes`.

    Raises:
        CheckpointError: they cannot be read, or are of another architecture.
    """
    fresh = model.flow.input_embedding.weight.detach().clone()
    load_strict(model.flow, read_tensors(folder / _FLOW), folder / _FLOW)
    load_strict(model.speaker, read_tensors(folder / _SPEAKER), folder / _SPEAKER)
    model.requires_grad_(True)
    if not codes:
        with torch.no_grad():
            model.flow.input_embedding.weight.copy_(fresh)


class DigitSums(nn.Module):
    """Parametrisation of a table of codes: free rows plus what digits and their pairs add."""

    features: Tensor

    def __init__(self, levels: Sequence[int], width: int) -> None:
        super().__init__()
        codes = torch.arange(math.prod(levels))
        basis = [math.prod(levels[:digit]) for digit in range(len(levels))]
        digits = [
            nn.functional.one_hot(codes // place % n, n).float()
            for place, n in zip(basis, levels, strict=True)
        ]
        pairs = [
            (a[:, :, None] * b[:, None]).flatten(1) for a, b in itertools.combinations(digits, 2)
        ]
        self.register_buffer("features", torch.cat(digits + pairs, dim=1), persistent=False)
        self.sums = nn.Parameter(torch.zeros(self.features.shape[1], width))

    def forward(self, table: Tensor) -> Tensor:
        """Rows [codes, width] as they are used."""
        return table + self.features @ self.sums


def main(config: Token2WavConfig) -> list[float]:
    """Train; returns the losses of the steps run here.

    Raises:
        ConfigError: a manifest or the codes of a recording are missing.
        CheckpointError: the run folder holds another model.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    torch.set_float32_matmul_precision("high")
    workers = Workers.join()
    run = build_run(config, CodeStore(config.codes), resolve_device(config.device))
    folder = Path(config.output_dir)
    trainer: Trainer[VoiceBatch] = Trainer(
        run.model, config.loop, folder / _STAGE, run.device, workers
    )
    trainer.resume()
    batches = run.data.batches(trainer.step, workers)
    losses = trainer.run(
        batches,
        lambda batch: run.loss(batch, trainer.step * workers.count + workers.rank),
        run.evaluate,
    )
    if workers.is_main:
        export(config)
    return losses


def export(config: Token2WavConfig) -> Path:
    """Write the averaged weights of flow and speaker encoder in half precision.

    Raises:
        CheckpointError: nothing has been trained.
    """
    average = read_average(Path(config.output_dir) / _STAGE)
    folder = Path(config.output_dir) / "model"
    folder.mkdir(parents=True, exist_ok=True)
    if config.code_levels:
        digits = DigitSums(config.code_levels, config.flow.input_size)
        with torch.no_grad():
            digits.sums.copy_(average.pop(f"{_PARAMETRIZED}.0.sums"))
            table = digits(average.pop(f"{_PARAMETRIZED}.original"))
        average["flow.input_embedding.weight"] = table
    for name, prefix in ((_FLOW, "flow."), (_SPEAKER, "speaker.")):
        tensors = {
            key.removeprefix(prefix): tensor.half().contiguous()
            for key, tensor in average.items()
            if key.startswith(prefix)
        }
        write_bytes_atomic(folder / name, safetensors.torch.save(tensors, {"format": "pt"}))
    values = {"flow": config.flow.to_dict(), "speaker": config.speaker.to_dict()}
    write_text_atomic(folder / _CONFIG, json.dumps(values, indent=2) + "\n")
    _log.info("flow and speaker encoder written to %s", folder)
    return folder


def load_trained(folder: str | Path) -> tuple[Flow, SpeakerNetwork]:
    """Load what `export` wrote, for `stepaudio.models.token2wav.folder.save_parts`.

    Raises:
        CheckpointError: files are missing or damaged.
        ConfigError: the configuration is incomplete.
    """
    folder = Path(folder)
    try:
        values: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{folder / _CONFIG}: cannot be read: {error}; run the recipe token2wav first"
        ) from error
    flow = load_flow(folder / _FLOW, FlowConfig.from_dict(values["flow"]))
    speaker = load_speaker_network(folder / _SPEAKER, SpeakerConfig.from_dict(values["speaker"]))
    return flow, speaker
