"""Blocks that predict several tokens, for any checkpoint: trained alone, then with the decoder.

The recipe adds prediction blocks (`stepaudio.models.mtp`) to a trained model and writes them as
``mtp.safetensors``. The first stage trains the blocks alone and leaves the model as it is, the
second one also adaptor and decoder, and then writes the changed model beside the blocks (StepAudio
2.5, arXiv 2605.23463, section 4).

Drafts are accepted where they are what the decoder itself would write. The blocks of a frozen
decoder can therefore learn from transcripts that it writes itself (``texts: decoder``), which
differ from the true ones wherever it errs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.audio.frames import MEL_FRAMES_PER_SECOND
from stepaudio.conversation import AudioPart, ChatTemplate, Prompts
from stepaudio.errors import ConfigError
from stepaudio.generation.completion import Completion, GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.multi_token import MultiTokenGenerator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.generation.stats import GenerationStats
from stepaudio.models.checkpoint import load_pretrained, save_checkpoint
from stepaudio.models.devices import resolve_device
from stepaudio.models.encoder import Latents
from stepaudio.models.masks import plan_attention
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.mtp_file import save_predictor
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.instructions import task_prompt
from stepaudio.tasks.modes import checked_variant
from stepaudio.text.manifest import read_manifest
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.training.augment import AugmentConfig
from stepaudio.training.data import Batch
from stepaudio.training.multi_token import IGNORED_LABEL, index_of_drafts, multi_token_loss
from stepaudio_recipes.speech_data import DataConfig, SpeechData, word_errors_by_source
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    is_finished,
    read_average,
)

_log = logging.getLogger(__name__)

_TRAINED_BY_JOINT = ("adapter", "model", "lm_head")
_MAX_TOKENS_PER_S = 8  # of a transcript that the decoder writes; more is a loop
_EXTRA_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage.

    Attributes:
        name: subfolder of the run.
        loop: length and optimiser.
        joint: also train adaptor and decoder, on the decoder's own loss beside that of the blocks.
        texts: what the blocks learn to predict: the true transcripts, or those that the decoder
            writes; the latter needs a decoder that is not trained.
        augment: augment the audio.
    """

    name: str
    loop: LoopConfig
    joint: bool = False
    texts: Literal["transcript", "decoder"] = "transcript"
    augment: bool = True

    def __post_init__(self) -> None:
        if self.joint and self.texts == "decoder":
            raise ConfigError(f"stage {self.name}: a joint stage learns from transcripts")


@dataclass(frozen=True, kw_only=True)
class MTPConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "mtp".
        output_dir: run folder; every stage has a subfolder, ``model`` holds the result.
        model: name, folder or Hub id of the trained model.
        data: manifests and mixture.
        stages: in order.
        blocks: shape of the blocks.
        augment: augmentation of the audio.
        dev_rows: recordings of the development set that evaluations decode.
        seed: seed of initialisation, data order and augmentation.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
    """

    recipe: Literal["mtp"]
    output_dir: str
    model: str
    data: DataConfig
    stages: tuple[StageConfig, ...]
    blocks: PredictorConfig = field(default_factory=PredictorConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    dev_rows: int = 64
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


Config = MTPConfig


@dataclass(frozen=True)
class Example:
    """One clip with what is written behind it.

    Attributes:
        prompt: its ids, audio placeholders included.
        answer: ids of the transcript and its end.
    """

    prompt: Sequence[int]
    answer: Sequence[int]


class Run:
    """The model, its blocks and what every stage needs of them."""

    def __init__(self, config: MTPConfig) -> None:
        """Load the model and add fresh blocks.

        Raises:
            CheckpointError: the model cannot be loaded.
            ConfigError: a manifest cannot be read, or the blocks do not fit the model.
        """
        self.config = config
        self.workers = Workers.join()
        device = resolve_device(config.device)
        self.device = torch.device("cuda", self.workers.rank) if device.type == "cuda" else device
        # Weights that are trained need the full precision; others stay as they are stored.
        dtype = torch.float32 if any(stage.joint for stage in config.stages) else None
        self.model: StepAudio2ForCausalLM
        self.tokenizer: TextTokenizer
        self.model, self.tokenizer = load_pretrained(config.model, device=device, dtype=dtype)
        self.model.to(self.device).requires_grad_(False)
        self._template = ChatTemplate(self.tokenizer)
        self._variant = checked_variant(self.model.config, config.model)
        self._instruction = Prompts.from_dict(self.model.config.prompts).asr
        vocab = self.tokenizer.vocab
        self._end = vocab.pad if self._variant == "base" else vocab.eot
        torch.manual_seed(config.seed)
        self.predictor = MultiTokenPredictor.from_decoder(
            config.blocks, self.model.model, self._draft_ids()
        ).float()
        ids = self.predictor.draft_ids
        self._draft_index = None if ids is None else index_of_drafts(ids, vocab.size)

    def _draft_ids(self) -> Tensor | None:
        """The most frequent tokens of the transcripts, the end token among them."""
        size = self.config.blocks.num_draft_ids
        if size is None:
            return None
        counts = Counter({self._end: 1})
        folder = Path(self.config.data.folder)
        for manifest in sorted({source.manifest for source in self.config.data.sources}):
            for row in read_manifest(folder / manifest):
                counts.update(self.tokenizer.encode(row.text))
        frequent = [token for token, _ in counts.most_common(size)]
        # Of a small corpus all tokens are kept, and the first others fill the vocabulary.
        others = (i for i in range(self.tokenizer.vocab.text_size) if i not in counts)
        ids = frequent + [next(others) for _ in range(size - len(frequent))]
        if self._end not in ids:
            ids[-1] = self._end
        return torch.tensor(sorted(ids), device=self.device)

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU; on a CPU it wins too little to be worth its noise."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")

    def folder(self, stage: StageConfig) -> Path:
        """Folder of one stage."""
        return Path(self.config.output_dir) / stage.name

    def module(self, stage: StageConfig) -> nn.Module:
        """What a stage trains."""
        self.model.requires_grad_(False)
        if not stage.joint:
            return self.predictor
        for name in _TRAINED_BY_JOINT:
            self.model.get_submodule(name).requires_grad_(True)
        return nn.ModuleDict({"model": self.model, "mtp": self.predictor})

    def speech(self, stage: StageConfig) -> SpeechData:
        """Training mixture and development set."""
        encoder = self.model.config.audio_encoder_config
        augment = self.config.augment if stage.augment else None
        return SpeechData(self.config.data, encoder, augment, self.config.seed)

    def prompt(self, num_latents: int) -> list[int]:
        """Ids of the prompt of one clip, as recognition has it."""
        parts = [AudioPart(num_latents, "audio")]
        return task_prompt(self._template, self._variant, self._instruction, parts).ids

    def transcripts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of true transcripts and their ends."""
        return [[*self.tokenizer.encode(text), self._end] for text in texts]

    def written(self, completions: Sequence[Completion]) -> list[list[int]]:
        """Ids of what the decoder has written, with the end where it came to one."""
        return [[*c.ids, *[self._end] * (c.finish_reason == "stop")] for c in completions]

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of the tokens that the blocks propose from hidden states [N, D]."""
        ids = self.predictor.draft_ids
        rows = slice(self.model.config.audio_start_token_id) if ids is None else ids
        normed = self.model.model.norm(hidden)
        return F.linear(normed, self.model.lm_head.weight[rows])

    def encode(self, batch: Batch) -> Latents:
        """Latents of the clips of a batch."""
        with self.autocast():
            features, lens = batch.mel.to(self.device), batch.mel_lens.to(self.device)
            latents: Latents = self.model.encode_audio(features, lens)[1]
        return latents

    def requests(self, batch: Batch, audio: Latents) -> list[GenerationPrompt]:
        """What recognition would complete for every clip."""
        counts = audio.lengths.tolist()
        seconds = (batch.mel_lens / MEL_FRAMES_PER_SECOND).tolist()
        return [
            GenerationPrompt(self.prompt(count), [values[:count]], duration)
            for values, count, duration in zip(audio.values.detach(), counts, seconds, strict=True)
        ]

    def loss(self, stage: StageConfig, batch: Batch, generator: Generator | None) -> StepResult:
        """Loss of one batch; the generator writes the texts, where the decoder shall."""
        with torch.set_grad_enabled(stage.joint):
            adapted = self.encode(batch)
        requests = self.requests(batch, adapted)
        prompts = [request.ids for request in requests]
        if generator is not None:
            answers = self.written(complete(generator, requests))
        else:
            answers = self.transcripts(batch.texts)
        examples = [Example(*pair) for pair in zip(prompts, answers, strict=True)]
        ids, attention, labels = (part.to(self.device) for part in collate(examples))
        loss, metrics = self._losses(stage, adapted, ids, attention, labels)
        return StepResult(loss, metrics, int(attention.sum()))

    def _losses(
        self, stage: StageConfig, audio: Latents, ids: Tensor, attention: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        windows = self.model.config.text_config.layer_windows
        plan = plan_attention(ids.shape[1], ids.device, windows, attention)
        with torch.set_grad_enabled(stage.joint), self.autocast():
            embeds = self.model.embed(ids, audio)
            hidden = self.model.model(embeds, plan)
        with self.autocast():
            states = self.predictor(hidden, embeds, plan)
            result = multi_token_loss(states, labels, self.project, draft_index=self._draft_index)
        metrics = {"blocks": float(result.total.detach())}
        for block, share in enumerate(result.prefix_accuracy.tolist(), start=1):
            metrics[f"right/{block}"] = share
        if not stage.joint:
            return result.total, metrics
        own = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
        kept = own != IGNORED_LABEL
        with self.autocast():
            logits = self.model.project(hidden[kept]).float()
            cross_entropy = F.cross_entropy(logits, own[kept])
        metrics["ce"] = float(cross_entropy.detach())
        return cross_entropy + result.total, metrics

    def evaluate(self, data: SpeechData) -> Mapping[str, float]:
        """Acceptance on the development set, and whether drafts change the transcripts."""
        generator = Generator(self.model.eval(), text_only=True)
        multi = MultiTokenGenerator(generator, self._inference_copy())
        total = GenerationStats()
        texts: list[str] = []
        num_different = 0
        for batch in data.dev_batches():
            requests = self.requests(batch, self.encode(batch))
            one_by_one, drafted = complete(generator, requests), complete(multi, requests)
            for single, several in zip(one_by_one, drafted, strict=True):
                num_different += single.ids != several.ids
                total.add(several.stats)
                texts.append(" ".join(self.tokenizer.decode(several.ids).split()))
        metrics = {"mean_accepted": total.mean_accepted, "different": float(num_different)}
        for index, share in enumerate(total.prefix_acceptance, start=1):
            metrics[f"accepted/{index}"] = share
        return metrics | word_errors_by_source(data.dev, texts)

    def _inference_copy(self) -> MultiTokenPredictor:
        """The blocks in the model's type, for decoding."""
        weight = self.model.lm_head.weight
        if weight.dtype == torch.float32:
            return self.predictor
        made = MultiTokenPredictor.from_decoder(
            self.config.blocks, self.model.model, self.predictor.draft_ids
        )
        made.load_state_dict(self.predictor.state_dict())
        return made.to(weight.device, weight.dtype)


def complete(
    generator: Generator | MultiTokenGenerator, requests: Sequence[GenerationPrompt]
) -> list[Completion]:
    """Greedy transcripts."""
    params = [
        SamplingParams(max_new_tokens=int(request.audio_s * _MAX_TOKENS_PER_S) + _EXTRA_TOKENS)
        for request in requests
    ]
    return generator.generate(requests, params, num_slots=len(requests))


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, attention mask and labels, each [B, T]; the answers are labelled."""
    longest = max(len(e.prompt) + len(e.answer) for e in examples)
    shape = (len(examples), longest)
    ids, attention = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED_LABEL)
    for row, example in enumerate(examples):
        start, stop = len(example.prompt), len(example.prompt) + len(example.answer)
        ids[row, :stop] = torch.tensor([*example.prompt, *example.answer])
        attention[row, :stop] = 1
        labels[row, start:stop] = ids[row, start:stop]
    return ids, attention, labels


def run_stage(run: Run, stage: StageConfig) -> list[float]:
    """Train one stage; returns the losses of the steps run here."""
    trainer: Trainer[Batch] = Trainer(
        run.module(stage), stage.loop, run.folder(stage), run.device, run.workers
    )
    trainer.resume()
    data = run.speech(stage)
    every = max(len(data.dev) // run.config.dev_rows, 1)
    data.dev = data.dev[::every][: run.config.dev_rows]
    generator = None
    if stage.texts == "decoder":
        generator = Generator(run.model.eval(), text_only=True)
    return trainer.run(
        data.batches(trainer.step, run.workers),
        lambda batch: run.loss(stage, batch, generator),
        lambda: run.evaluate(data),
    )


def load_stages(run: Run, stages: Sequence[StageConfig]) -> None:
    """Put the averaged weights of finished stages, the latest last, into model and blocks."""
    for stage in stages:
        known = dict(run.module(stage).named_parameters())
        with torch.no_grad():
            for name, value in read_average(run.folder(stage)).items():
                known[name].copy_(value)


def main(config: MTPConfig) -> list[float]:
    """Run every stage that is not finished and write the result; returns the losses.

    Raises:
        ConfigError: a file that the configuration names is missing or damaged.
        CheckpointError: the model cannot be loaded, or a stage was begun with other blocks.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    torch.set_float32_matmul_precision("high")
    run = Run(config)
    losses: list[float] = []
    for index, stage in enumerate(config.stages):
        if is_finished(run.folder(stage), stage.loop.steps):
            _log.info("stage %s is finished", stage.name)
            continue
        load_stages(run, config.stages[:index])
        losses += run_stage(run, stage)
    load_stages(run, config.stages)
    if run.workers.is_main:
        export(run)
    return losses


def export(run: Run) -> Path:
    """Write the blocks in half precision, and the model with them if it was trained too."""
    folder = Path(run.config.output_dir) / "model"
    if any(stage.joint for stage in run.config.stages):
        dtype = torch.bfloat16 if run.device.type == "cuda" else torch.float16
        save_checkpoint(run.model, folder, dtype=dtype)
        run.tokenizer.save(folder)
    path = save_predictor(run.predictor, folder, dtype=torch.float16)
    _log.info("blocks written to %s", path)
    return folder
