"""Speech tokenizer of nano: supervised finite scalar quantisation at 25 Hz.

The tokenizer is an S3 tokenizer of any size, or one that stands on the encoder of a trained
recogniser. Behind its quantised values a head, which is thrown away after training, must name the
phones (CTC), agree with the phone posteriors of the recogniser frame by frame, and draw the mel.
The head is told the mean spectrum of the recording, so that the few digits of a code need not say
who speaks (Step-Audio 2, section 3; CosyVoice 2).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio.audio.mel import log_mel
from stepaudio.errors import ConfigError
from stepaudio.models.encoder import Latents
from stepaudio.models.layers import rotary_tables
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer, TokenizerBlock
from stepaudio.models.token2wav.shared_tokenizer import SharedTokenizer, SharedTokenizerConfig
from stepaudio.models.token2wav.tokenizer_checkpoint import (
    TrainedTokenizer,
    read_tokenizer_config,
    stored_tensors,
    write_tokenizer_config,
)
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.training.augment import AugmentConfig, augment_waveform
from stepaudio.training.codec_losses import mel_distance, posterior_divergence, spread_loss
from stepaudio.training.data import SampleStore, Source, plan_batches
from stepaudio_recipes.codes import CodeStore, encode_manifest
from stepaudio_recipes.lexicon import PHONES, Lexicon
from stepaudio_recipes.phones import phone_loss
from stepaudio_recipes.speech_data import SourceConfig
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    is_finished,
    read_average,
)

_log = logging.getLogger(__name__)
_DEV_ROWS = 48


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The head that is thrown away.

    Attributes:
        layers: transformer blocks behind the quantised values.
        width: their width.
        heads: their attention heads.
        phone_weight: weight of the CTC loss on phones.
        teacher_weight: weight of the divergence from the recogniser's phone posteriors.
        mel_weight: weight of the mel distance.
        spread_weight: weight of what keeps all codes in use.
    """

    layers: int = 2
    width: int = 160
    heads: int = 4
    phone_weight: float = 1.0
    teacher_weight: float = 1.0
    mel_weight: float = 1.0
    spread_weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "codec".
        output_dir: run folder; ``tokenizer`` in it holds the result.
        tokenizer: architecture, see `read_tokenizer_config`; a shared one stands on the encoder of
            the teacher.
        head: head and losses.
        teacher: name or folder of a trained recogniser with a head on phones.
        data: folder of the manifests.
        sources: training mixture.
        dev: manifest of the development set.
        encode: manifests whose codes are written at the end.
        codes: folder of these codes.
        lexicon: pronunciation dictionary.
        augment: augmentation of the audio; the losses of a clip hear the same audio.
        batch_s: padded seconds of audio in a batch.
        bfloat16: compute in half precision where that is fast: GPUs, and CPUs that have
            instructions for it.
        loop: length and optimiser.
        seed: of initialisation, data order and augmentation.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
    """

    recipe: Literal["codec"]
    output_dir: str
    tokenizer: dict  # type: ignore[type-arg]
    data: str
    sources: tuple[SourceConfig, ...]
    dev: str
    loop: LoopConfig
    encode: tuple[str, ...] = ()
    codes: str = ".data/nano/codes"
    teacher: str = "nano"
    head: HeadConfig = field(default_factory=HeadConfig)
    lexicon: str = ".data/nano/cmudict.dict.gz"
    augment: AugmentConfig | None = None
    batch_s: float = 40.0
    bfloat16: bool = False
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


Config = CodecConfig


class CodecModel(nn.Module):
    """Tokenizer and head.

    Shape legend: B batch, M mel bands, T mel frames, S tokens, Q digits, K phones and the blank.
    """

    def __init__(self, tokenizer: TrainedTokenizer, head: HeadConfig, num_mels: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        config = tokenizer.config
        self.config = S3Config(
            n_audio_state=head.width, n_audio_head=head.heads, fsmn_kernel=15, mlp_ratio=2.0
        )
        self.stride, self.num_mels = config.token_stride, num_mels
        self.embed = nn.Linear(len(config.codebook_levels), head.width)
        self.global_embed = nn.Linear(num_mels, head.width)
        self.blocks = nn.ModuleList(TokenizerBlock(self.config) for _ in range(head.layers))
        self.norm = nn.LayerNorm(head.width)
        self.phones = nn.Linear(head.width, 1 + len(PHONES))
        self.mel = nn.Linear(head.width, self.stride * num_mels)

    def forward(self, mel_BMT: Tensor, lens_B: Tensor) -> tuple[Latents, Tensor, Tensor]:
        """Phone log-probabilities, mel [B, M, S * stride], and quantised values [B, S, Q]."""
        values, lens = self.tokenizer(mel_BMT, lens_B)
        inside = torch.arange(mel_BMT.shape[-1], device=lens_B.device) < lens_B[:, None]
        mean = (mel_BMT * inside[:, None]).sum(-1) / lens_B[:, None]
        x = self.embed(values)
        spoken = self.norm(self._run(x, lens))
        # Only the mel may know the spectrum of the voice: it would help no one to name phones.
        drawn = self._run(x + self.global_embed(mean)[:, None], lens)
        frames = self.mel(self.norm(drawn)).unflatten(-1, (self.stride, self.num_mels))
        mel = frames.flatten(1, 2).transpose(1, 2)
        return Latents(self.phones(spoken).float().log_softmax(-1), lens), mel, values

    def _run(self, x_BSD: Tensor, lens_B: Tensor) -> Tensor:
        config = self.config
        positions = torch.arange(x_BSD.shape[1], device=x_BSD.device)
        width = config.n_audio_state // config.n_audio_head
        rotary = rotary_tables(positions, width, config.rope_theta)
        mask = positions[None] < lens_B[:, None]
        for block in self.blocks:
            x_BSD = block(x_BSD, rotary, mask)
        return x_BSD


@dataclass(frozen=True)
class CodecBatch:
    """Padded clips.

    Attributes:
        mel: [B, M, T] as the tokenizer hears it.
        lens: [B] mel frames.
        teacher_mel: [B, M', T'] as the recogniser hears it.
        teacher_lens: [B].
        texts: transcripts.
        audio_s: seconds of audio.
    """

    mel: Tensor
    lens: Tensor
    teacher_mel: Tensor
    teacher_lens: Tensor
    texts: tuple[str, ...]
    audio_s: float


class CodecData:
    """Batches as a function of seed and step."""

    def __init__(
        self, config: CodecConfig, teacher: StepAudio2ForCausalLM, tokenizer: TrainedTokenizer
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._encoder = teacher.config.audio_encoder_config
        self._store = SampleStore()
        folder = Path(config.data)
        self._sources = [
            Source(_rows(folder / source.manifest, source.source), source.weight)
            for source in config.sources
        ]
        self.dev = read_manifest(folder / config.dev)[:_DEV_ROWS]

    def batches(self, first_step: int, workers: Workers) -> Iterator[tuple[int, CodecBatch]]:
        """(step, batch) pairs of one process from `first_step` on."""
        plan = plan_batches(self._sources, self._config.batch_s, self._config.seed)
        for index, rows in enumerate(plan):
            step, rank = divmod(index, workers.count)
            if step >= first_step and rank == workers.rank:
                yield step, self.build(rows, np.random.default_rng((self._config.seed, index, 1)))

    def build(self, rows: Sequence[ManifestRow], rng: np.random.Generator | None) -> CodecBatch:
        """Load, augment (with `rng`) and pad."""
        wavs = []
        for row in rows:
            samples = self._store.load(row)
            if self._config.augment is not None and rng is not None:
                samples = augment_waveform(samples, self._config.augment, rng, (), ())
            wavs.append(torch.from_numpy(samples))
        encoder = self._encoder
        mels = [self._tokenizer.log_mel(wav) for wav in wavs]
        heard = [log_mel(wav, encoder.n_mels, floor=encoder.mel_floor) for wav in wavs]
        valid = [encoder.geometry.valid_mel_frames(mel.shape[1]) for mel in heard]
        return CodecBatch(
            _padded(mels),
            torch.tensor([mel.shape[1] for mel in mels]),
            _padded(heard),
            torch.tensor(valid),
            tuple(row.text for row in rows),
            sum(len(wav) for wav in wavs) / 16_000,
        )


def _rows(path: Path, source: str | None) -> list[ManifestRow]:
    return [row for row in read_manifest(path) if source is None or source in row.source]


def _padded(mels: Sequence[Tensor]) -> Tensor:
    batch = torch.zeros(len(mels), mels[0].shape[0], max(mel.shape[1] for mel in mels))
    for row, mel in zip(batch, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    return batch


@torch.no_grad()
def teacher_posteriors(teacher: StepAudio2ForCausalLM, batch: CodecBatch) -> Latents:
    """Phone posteriors of the recogniser, 25 a second."""
    device = teacher.lm_head.weight.device
    encoded, _ = teacher.encode_audio(batch.teacher_mel.to(device), batch.teacher_lens.to(device))
    posteriors: Latents = teacher.phone_head(encoded)
    return posteriors


def train(
    config: CodecConfig,
    model: CodecModel,
    teacher: StepAudio2ForCausalLM,
    device: torch.device,
    workers: Workers,
) -> list[float]:
    """Train tokenizer and head; returns the losses of the steps run here."""
    folder = Path(config.output_dir)
    trainer: Trainer[CodecBatch] = Trainer(model, config.loop, folder, device, workers)
    trainer.resume()
    data = CodecData(config, teacher, model.tokenizer)
    stride = model.stride
    levels = model.tokenizer.config.codebook_levels
    lexicon = Lexicon.read(Path(config.lexicon))

    def losses_of(batch: CodecBatch) -> tuple[Tensor, dict[str, float], Tensor]:
        mel, lens = batch.mel.to(device), batch.lens.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            posteriors, drawn, values = model(mel, lens)
            target = teacher_posteriors(teacher, batch)
        ctc = phone_loss(posteriors, lexicon, batch.texts)
        divergence = posterior_divergence(posteriors, target)
        distance = mel_distance(drawn.float(), mel, lens)
        head = config.head
        loss = head.phone_weight * ctc + head.teacher_weight * divergence
        spread = spread_loss(values, (lens - 1) // stride + 1, levels)
        loss = loss + head.mel_weight * distance + head.spread_weight * spread
        named = {"ctc": ctc, "teacher": divergence, "mel": distance, "spread": spread}
        return loss, {name: float(value.detach()) for name, value in named.items()}, values

    def loss_fn(batch: CodecBatch) -> StepResult:
        loss, metrics, _ = losses_of(batch)
        return StepResult(loss, metrics, int(batch.lens.sum()) // stride)

    def evaluate() -> Mapping[str, float]:
        batch = data.build(data.dev, None)
        _, metrics, values = losses_of(batch)
        codes = model.tokenizer.codebook.codes(values)
        frames = (batch.lens - 1) // stride + 1
        spoken = torch.cat([row[:n] for row, n in zip(codes, frames.tolist(), strict=True)])
        use = codebook_use(spoken, model.tokenizer.codebook_size)
        return {f"dev/{name}": value for name, value in (metrics | use).items()}

    return trainer.run(data.batches(trainer.step, workers), loss_fn, evaluate)


def codebook_use(codes: Tensor, size: int) -> dict[str, float]:
    """Share of the codes that occur, and the perplexity of their distribution."""
    counts = torch.bincount(codes.flatten(), minlength=size).float()
    share = counts / counts.sum()
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    return {"use": float((counts > 0).float().mean()), "perplexity": float(entropy.exp())}


def main(config: CodecConfig) -> list[float]:
    """Train the tokenizer, write it, and encode the manifests; returns the losses.

    Raises:
        ConfigError: the teacher has no head on phones, or data are missing.
        CheckpointError: the teacher cannot be loaded.
    """
    from stepaudio.models.checkpoint import load_pretrained

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    workers = Workers.join()
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda", workers.rank) if wanted == "cuda" else torch.device("cpu")
    teacher: Any = load_pretrained(config.teacher, device=device)[0].float().eval()
    if teacher.config.audio_encoder_config.ctc_phones != PHONES:
        raise ConfigError(f"{config.teacher}: has no head on the {len(PHONES)} phones")
    torch.manual_seed(config.seed)
    model = build_model(config, teacher).to(device)
    losses: list[float] = []
    if not is_finished(Path(config.output_dir), config.loop.steps):
        losses = train(config, model, teacher, device, workers)
    if workers.is_main:
        tokenizer = export(config, model)
        for name in config.encode:
            encode_manifest(tokenizer, Path(config.data) / name, CodeStore(config.codes))
    return losses


def build_model(config: CodecConfig, teacher: StepAudio2ForCausalLM) -> CodecModel:
    """Tokenizer and head with initial weights; the encoder of a shared tokenizer is the teacher's.

    Raises:
        ConfigError: the architecture is contradictory.
    """
    from stepaudio.models.checkpoint import pretrained_folder

    architecture = read_tokenizer_config(config.tokenizer, pretrained_folder(config.teacher))
    if isinstance(architecture, SharedTokenizerConfig):
        tokenizer: TrainedTokenizer = SharedTokenizer(architecture)
        tokenizer.encoder.load_state_dict(teacher.encoder.state_dict())
        tokenizer.encoder.requires_grad_(False)
        return CodecModel(tokenizer, config.head, architecture.encoder.n_mels)
    return CodecModel(S3Tokenizer(architecture), config.head, architecture.n_mels)


def export(config: CodecConfig, model: CodecModel) -> TrainedTokenizer:
    """Write the averaged weights in half precision and return the tokenizer that has them."""
    folder = Path(config.output_dir)
    known = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in read_average(folder).items():
            known[name].copy_(value)
    # What ships is rounded; codes must be those of the rounded weights.
    tokenizer = model.tokenizer.half().float().cpu().eval()
    tensors = {k: v.half().contiguous() for k, v in stored_tensors(tokenizer).items()}
    (folder / "tokenizer").mkdir(exist_ok=True)
    write_bytes_atomic(
        folder / "tokenizer" / "speech_tokenizer.safetensors",
        safetensors.torch.save(tensors, {"format": "pt"}),
    )
    text = json.dumps(write_tokenizer_config(tokenizer.config), indent=2) + "\n"
    write_text_atomic(folder / "tokenizer" / "config.json", text)
    _log.info("tokenizer written to %s", folder / "tokenizer")
    return tokenizer
