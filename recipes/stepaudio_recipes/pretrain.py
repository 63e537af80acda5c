"""Pretraining of a small model from scratch: encoder with CTC, decoder on text, then both.

Stages run one after the other; each starts from the averaged weights of the one before and
resumes from its own last checkpoint:

* ``ctc``: the encoder learns to spell under a CTC loss, with random attention chunks, so that it
  can stream. A CTC loss first is the known way to make an encoder converge fast.
* ``lm``: the decoder learns the language from text alone.
* ``joint``: transcripts behind the audio; cross-entropy of the decoder, CTC loss beside it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stepaudio.conversation import (
    AudioPart,
    ChatTemplate,
    Prompt,
    Prompts,
    task_messages,
    text_message,
)
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.encoder import AudioEncoder, ChunkMask, CTCHead, Latents
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.text.ctc import collapse
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.training.augment import AugmentConfig
from stepaudio.training.data import Batch
from stepaudio.training.losses import ctc_loss
from stepaudio_recipes.lexicon import PHONES, Lexicon
from stepaudio_recipes.phones import phone_loss
from stepaudio_recipes.speech_data import (
    ChunkConfig,
    DataConfig,
    SourceConfig,
    SpeechData,
    sample_chunk_mask,
    word_errors_by_source,
)
from stepaudio_recipes.text_data import IGNORED_LABEL, TextBatch, read_texts, text_batches
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    is_finished,
    read_average,
)

_log = logging.getLogger(__name__)
_CONFIGS = Path(__file__).parent / "configs" / "pretrain"


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage.

    Attributes:
        name: subfolder of the run.
        objective: what is trained, see the module's docstring.
        loop: length and optimiser.
        frozen: top-level modules of the model that keep their weights.
        ctc_weight: weight of the CTC loss in a joint stage.
        phone_weight: weight of the phone head's CTC loss in a ctc or joint stage.
        token_noise: share of the decoder's input text tokens that are replaced at random, so
            that it does not come to trust its own output more than the audio.
        text_shape: rows and length of a packed batch in an lm stage.
        sources: training mixture of this stage; empty: that of the run.
        batch_s: padded seconds of audio in a batch; None: as in the run.
        augment: augment the audio and draw random attention chunks.
    """

    name: str
    objective: Literal["ctc", "lm", "joint"]
    loop: LoopConfig
    frozen: tuple[str, ...] = ()
    ctc_weight: float = 0.3
    phone_weight: float = 0.0
    token_noise: float = 0.0
    text_shape: tuple[int, int] = (8, 256)
    sources: tuple[SourceConfig, ...] = ()
    batch_s: float | None = None
    augment: bool = True


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "pretrain".
        output_dir: run folder; every stage has a subfolder, ``model`` holds the result.
        model: ``config.json`` of the model to train; a bare name is one beside the configs.
        tokenizer: folder of the tokenizer.
        texts: gzip text file of the lm stages.
        lexicon: pronunciation dictionary for the phone targets.
        data: manifests and mixture.
        stages: in order.
        augment: augmentation of the audio.
        chunks: random attention chunks.
        seed: seed of initialisation, data order and augmentation.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
        compile: compile the encoder of ctc stages with torch.compile.
        init: name or folder of a trained model of the same shape to go on from; None: from
            scratch.
    """

    recipe: Literal["pretrain"]
    output_dir: str
    model: str
    tokenizer: str
    texts: str
    data: DataConfig
    stages: tuple[StageConfig, ...]
    lexicon: str = ".data/nano/cmudict.dict.gz"
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    chunks: ChunkConfig = field(default_factory=ChunkConfig)
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    init: str | None = None


Config = PretrainConfig


class SpeechEncoder(nn.Module):
    """The part of the model that a ``ctc`` stage trains, under the model's parameter names."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.encoder = AudioEncoder(config)
        self.ctc_head = CTCHead(config, len(config.ctc_tokens))
        if config.ctc_phones:
            self.phone_head = CTCHead(config, len(config.ctc_phones))

    def forward(self, mel: Tensor, mel_lens: Tensor, mask: ChunkMask | None) -> Latents:
        """CTC log-probabilities of a batch."""
        log_probs: Latents = self.ctc_head(self.encoder(mel, mel_lens, mask))
        return log_probs


@dataclass(frozen=True)
class Run:
    """What every stage needs."""

    config: PretrainConfig
    model_config: StepAudioConfig
    tokenizer: TextTokenizer
    device: torch.device
    workers: Workers

    @property
    def template(self) -> ChatTemplate:
        """Chat template of the tokenizer."""
        return ChatTemplate(self.tokenizer)

    def trainer(self, stage: StageConfig, model: nn.Module) -> Trainer[Any]:
        """Trainer of a stage, resumed if the stage has begun."""
        trainer: Trainer[Any] = Trainer(
            model, stage.loop, self.folder(stage), self.device, self.workers
        )
        trainer.resume()
        return trainer

    def folder(self, stage: StageConfig) -> Path:
        """Folder of one stage."""
        return Path(self.config.output_dir) / stage.name

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU; on a CPU it wins too little to be worth its noise."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")

    def rng(self, step: int) -> np.random.Generator:
        """Random generator of one step's masks and noise."""
        return np.random.default_rng((self.config.seed, step, 2))

    def lexicon(self, stage: StageConfig) -> Lexicon | None:
        """Pronunciations for the phone targets of a stage that has them.

        Raises:
            ConfigError: the dictionary is missing, or the model has no head on its phones.
        """
        if stage.phone_weight and self.model_config.audio_encoder_config.ctc_phones != PHONES:
            raise ConfigError(
                f"stage {stage.name}: phone_weight needs a model whose ctc_phones are those of "
                f"the dictionary ({len(PHONES)} phones, as in nano_model.json)"
            )
        return Lexicon.read(Path(self.config.lexicon)) if stage.phone_weight else None

    def chunk_mask(self, stage: StageConfig, rng: np.random.Generator) -> ChunkMask | None:
        """Attention mask of one step."""
        return sample_chunk_mask(self.config.chunks, rng) if stage.augment else None

    def speech(self, stage: StageConfig) -> SpeechData:
        """Training mixture of a stage and the development set."""
        data = self.config.data
        data = dataclasses.replace(
            data, sources=stage.sources or data.sources, batch_s=stage.batch_s or data.batch_s
        )
        encoder = self.model_config.audio_encoder_config
        augment = self.config.augment if stage.augment else None
        return SpeechData(data, encoder, augment, self.config.seed)


# ---- the three objectives ------------------------------------------------------------------


def run_ctc(run: Run, stage: StageConfig, model: SpeechEncoder) -> list[float]:
    """Train encoder and CTC head; returns the losses of the steps run here."""
    trainer: Trainer[Batch] = run.trainer(stage, model)
    data = run.speech(stage)
    encoder = torch.compile(model.encoder) if run.config.compile else model.encoder
    lexicon = run.lexicon(stage)

    def loss_fn(batch: Batch) -> StepResult:
        mask = run.chunk_mask(stage, run.rng(trainer.step))
        targets, lens = batch.targets.to(run.device), batch.target_lens.to(run.device)
        with run.autocast():
            encoded = encoder(batch.mel.to(run.device), batch.mel_lens.to(run.device), mask)
            posteriors = model.ctc_head(encoded)
        loss = ctc_loss(posteriors, targets, lens)
        metrics = {"audio_s": batch.audio_s, "chars": float(loss.detach())}
        if lexicon is not None:
            spoken = phone_loss(model.phone_head(encoded), lexicon, batch.texts)
            metrics["phones"] = float(spoken.detach())
            loss = loss + stage.phone_weight * spoken
        return StepResult(loss, metrics, int(posteriors.lengths.sum()))

    def evaluate() -> Mapping[str, float]:
        texts: list[str] = []
        for batch in data.dev_batches():
            texts += ctc_texts(model, batch, run.device)
        return word_errors_by_source(data.dev, texts)

    return trainer.run(data.batches(trainer.step, run.workers), loss_fn, evaluate)


def ctc_texts(model: SpeechEncoder, batch: Batch, device: torch.device) -> list[str]:
    """Greedy CTC transcripts of a batch."""
    posteriors = model(batch.mel.to(device), batch.mel_lens.to(device), None)
    tokens = model.encoder.config.ctc_tokens
    pairs = zip(posteriors.values.argmax(-1).tolist(), posteriors.lengths.tolist(), strict=True)
    return [collapse(ids[:length], tokens) for ids, length in pairs]


def run_lm(run: Run, stage: StageConfig, model: StepAudio2ForCausalLM) -> list[float]:
    """Train the decoder on text; returns the losses of the steps run here."""
    trainer: Trainer[TextBatch] = run.trainer(stage, model)
    texts = read_texts(Path(run.config.texts))

    def loss_fn(batch: TextBatch) -> StepResult:
        with run.autocast():
            output = model(
                input_ids=batch.input_ids.to(run.device),
                position_ids=batch.position_ids.to(run.device),
                labels=batch.labels.to(run.device),
                output_logits=False,
                use_cache=False,
            )
        return StepResult(output.loss, {}, batch.input_ids.numel())

    # Every process shuffles with its own seed.
    seed = run.config.seed + run.workers.rank
    batches = enumerate(text_batches(texts, run.template, stage.text_shape, seed))
    return trainer.run(islice(batches, trainer.step, None), loss_fn)


def run_joint(run: Run, stage: StageConfig, model: StepAudio2ForCausalLM) -> list[float]:
    """Train on transcripts behind audio; returns the losses of the steps run here."""
    trainer: Trainer[Batch] = run.trainer(stage, model)
    data = run.speech(stage)
    lexicon = run.lexicon(stage)
    template = run.template
    instruction = Prompts.from_dict(run.model_config.prompts).asr

    def forward(batch: Batch, mask: ChunkMask | None, rng: np.random.Generator) -> Any:
        mel, lens = batch.mel.to(run.device), batch.mel_lens.to(run.device)
        with run.autocast():
            encoded, adapted = model.encode_audio(mel, lens, mask)
        counts = adapted.lengths.tolist()
        prompts = [
            transcription_prompt(template, instruction, n, text)
            for n, text in zip(counts, batch.texts, strict=True)
        ]
        ids, attention, labels = collate_prompts(prompts, model.config.pad_token_id)
        noisy = replace_tokens(ids, labels, stage.token_noise, run.tokenizer.vocab.text_size, rng)
        with run.autocast():
            output = model(
                input_ids=noisy.to(run.device),
                attention_mask=attention.to(run.device),
                labels=labels.to(run.device),
                audio_embeds=adapted,
                output_logits=False,
                use_cache=False,
            )
        return output.loss, encoded, int(attention.sum())

    def loss_fn(batch: Batch) -> StepResult:
        rng = run.rng(trainer.step)
        mask = run.chunk_mask(stage, rng)
        cross_entropy, encoded, num_tokens = forward(batch, mask, rng)
        metrics = {"ce": float(cross_entropy.detach()), "audio_s": batch.audio_s}
        loss = cross_entropy
        if stage.ctc_weight and "encoder" not in stage.frozen:
            targets, lens = batch.targets.to(run.device), batch.target_lens.to(run.device)
            ctc = ctc_loss(model.ctc_head(encoded), targets, lens)
            metrics["ctc"] = float(ctc.detach())
            loss = loss + stage.ctc_weight * ctc
            if lexicon is not None:
                spoken = phone_loss(model.phone_head(encoded), lexicon, batch.texts)
                metrics["phones"] = float(spoken.detach())
                loss = loss + stage.phone_weight * spoken
        return StepResult(loss, metrics, num_tokens)

    def evaluate() -> Mapping[str, float]:
        from stepaudio.tasks.asr import Transcriber

        transcriber = Transcriber(model, run.tokenizer)
        wavs = [torch.from_numpy(data.samples(row)) for row in data.dev]
        return word_errors_by_source(data.dev, transcriber.transcribe_pieces(wavs))

    return trainer.run(data.batches(trainer.step, run.workers), loss_fn, evaluate)


def transcription_prompt(
    template: ChatTemplate, instruction: str, num_tokens: int, text: str
) -> Prompt:
    """Render one training example of speech recognition."""
    messages = task_messages(instruction, [AudioPart(num_tokens, "audio")])
    return template.render([*messages, text_message("assistant", text, train=True)], prime=False)


def collate_prompts(prompts: list[Prompt], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, attention mask and labels, each [B, T]."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id)
    attention = torch.zeros(len(prompts), longest, dtype=torch.long)
    labels = torch.full((len(prompts), longest), IGNORED_LABEL)
    for row, prompt in enumerate(prompts):
        length = len(prompt.ids)
        ids[row, :length] = torch.tensor(prompt.ids)
        attention[row, :length] = 1
        labels[row, :length][torch.tensor(prompt.loss_mask)] = ids[row, :length][
            torch.tensor(prompt.loss_mask)
        ]
    return ids, attention, labels


def replace_tokens(
    ids: Tensor, labels: Tensor, share: float, text_size: int, rng: np.random.Generator
) -> Tensor:
    """Replace a share of the labelled input tokens by random text tokens."""
    if not share:
        return ids
    chosen = torch.from_numpy(rng.random(ids.shape) < share) & (labels != IGNORED_LABEL)
    return torch.where(chosen, torch.from_numpy(rng.integers(0, text_size, ids.shape)), ids)


# ---- the run -------------------------------------------------------------------------------


def build_run(config: PretrainConfig) -> Run:
    """Read model configuration and tokenizer."""
    path = Path(config.model)
    path = path if path.parent != Path() else _CONFIGS / path
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    tokenizer = TextTokenizer.from_folder(config.tokenizer)
    vocab = tokenizer.vocab
    values["text_config"] |= {
        "vocab_size": tokenizer.num_tokens,
        "eos_token_id": list(vocab.stop_ids),
        "pad_token_id": vocab.pad,
    }
    values |= {
        "audio_start_token_id": vocab.audio_start,
        "audio_patch_token_id": vocab.audio_patch,
    }
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    workers = Workers.join()
    device = torch.device("cuda", workers.rank) if wanted == "cuda" else torch.device("cpu")
    return Run(config, StepAudioConfig(**values), tokenizer, device, workers)


def load_previous(model: nn.Module, folders: list[Path]) -> None:
    """Copy the averaged weights of earlier stages, the latest last, into the model."""
    known = dict(model.named_parameters())
    with torch.no_grad():
        for folder in folders:
            for name, value in read_average(folder).items():
                if name in known:
                    known[name].copy_(value)


def load_initial(model: nn.Module, source: str) -> None:
    """Copy the weights of a trained model into a model or a part of one, by parameter name.

    Raises:
        CheckpointError: the trained model cannot be loaded, or has another shape.
    """
    from stepaudio.models.checkpoint import load_pretrained

    trained = dict(load_pretrained(source, device="cpu")[0].named_parameters())
    own = dict(model.named_parameters())
    # A head on phones may join a model that was trained without one.
    if not any(name.startswith("phone_head.") for name in trained):
        own = {n: p for n, p in own.items() if not n.startswith("phone_head.")}
    differing = [n for n, p in own.items() if n not in trained or trained[n].shape != p.shape]
    if differing:
        raise CheckpointError(f"{source}: not a model of this shape; differing: {differing[:5]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(trained[name])


def main(config: PretrainConfig) -> list[float]:
    """Run every stage that is not finished and write the model; returns the losses.

    Raises:
        ConfigError: a file that the configuration names is missing or damaged.
        CheckpointError: the weights to start from, or those of an earlier stage, do not fit.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    torch.set_float32_matmul_precision("high")
    run = build_run(config)
    losses: list[float] = []
    for index, stage in enumerate(config.stages):
        if is_finished(run.folder(stage), stage.loop.steps):
            _log.info("stage %s is finished", stage.name)
            continue
        torch.manual_seed(config.seed)
        model: Any
        if stage.objective == "ctc":
            model = SpeechEncoder(run.model_config.audio_encoder_config)
        else:
            model = StepAudio2ForCausalLM(run.model_config)
        if config.init is not None:
            load_initial(model, config.init)
        load_previous(model, [run.folder(s) for s in config.stages[:index]])
        for name in stage.frozen:
            model.get_submodule(name).requires_grad_(False)
        objective = {"ctc": run_ctc, "lm": run_lm, "joint": run_joint}[stage.objective]
        losses += objective(run, stage, model.to(run.device))
    if run.workers.is_main:
        export(run)
    return losses


def export(run: Run) -> Path:
    """Write the averaged weights of all stages as a checkpoint in half precision."""
    from stepaudio.models.checkpoint import save_checkpoint

    model = StepAudio2ForCausalLM(run.model_config)
    if run.config.init is not None:
        load_initial(model, run.config.init)
    load_previous(model, [run.folder(stage) for stage in run.config.stages])
    folder = Path(run.config.output_dir) / "model"
    save_checkpoint(model.half(), folder)
    run.tokenizer.save(folder)
    _log.info("model written to %s", folder)
    return folder
