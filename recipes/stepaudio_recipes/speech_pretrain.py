"""Speech and dialogue for a model that hears: adapters of the decoder, and its audio tokens.

The foundation stays as it is, bit by bit, so that its recognition does too. Each stage trains an
adapter of its own from the foundation:

* ``tts``: readings to audio codes, and the rows of the embedding table that only speech needs.
* ``chat``: conversations in text, see `stepaudio_recipes.chat_stage`.

The result is a checkpoint of the foundation with a larger vocabulary and a folder of adapters.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.adapters import (
    ADAPTER_FOLDER,
    Adapter,
    LoraConfig,
    adapter_of,
    load_adapter,
    save_adapter,
    truncated,
)
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio_recipes.chat_stage import ChatConfig, ChatStage, run_chat, trained_chat
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.phone_times import align_rows, time_store
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    Workers,
    half_precision,
    is_finished,
    read_average,
)
from stepaudio_recipes.tts_stage import (
    SpeechDecoder,
    TtsBatch,
    TtsConfig,
    TtsData,
    guided_tts_loss,
    source_rows,
    tts_loss,
)

_log = logging.getLogger(__name__)
_DEV_ROWS_A_BATCH = 12


@dataclass(frozen=True, kw_only=True)
class SpeechStage:
    """One stage.

    Attributes:
        name: subfolder of the run, and name of the adapter.
        objective: what is trained, see the module's docstring; "kept": nothing, the foundation's
            adapter of this name stays.
        loop: length and optimiser.
        lora: shape of the adapter.
        export_rank: rank that the adapter is cut to when it is written; 0: as trained.
        start: folder of a model whose adapter of this name, of the same or a lower rank, and whose
            embeddings of phones a ``tts`` stage begins with; None: fresh ones. The embeddings of
            its audio codes, which meant something else, are not taken.
    """

    name: str
    objective: Literal["tts", "chat", "kept"]
    loop: LoopConfig
    lora: LoraConfig
    export_rank: int = 0
    start: str | None = None


@dataclass(frozen=True, kw_only=True)
class SpeechPretrainConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "speech_pretrain".
        output_dir: run folder; every stage has a subfolder, ``model`` holds the result.
        foundation: name or folder of the model that hears.
        tokenizer: folder of a tokenizer with the foundation's text tokens, and with phones.
        tts: data of the ``tts`` stages.
        chat: data of the ``chat`` stages.
        stages: each independent of the others.
        only: stages to run now; empty: all, and the export.
        seed: of initialisation, data order and noise.
        num_threads: CPU threads; 0: as PyTorch chooses.
        device: "auto" takes a GPU if there is one.
    """

    recipe: Literal["speech_pretrain"]
    output_dir: str
    tokenizer: str
    stages: tuple[SpeechStage, ...]
    tts: TtsConfig
    chat: ChatConfig
    foundation: str = "nano"
    only: tuple[str, ...] = ()
    seed: int = 0
    num_threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


Config = SpeechPretrainConfig


@dataclass(frozen=True)
class SpeechRun:
    """What every stage needs."""

    config: SpeechPretrainConfig
    tokenizer: TextTokenizer
    device: torch.device
    workers: Workers

    def folder(self, stage: ChatStage) -> Path:
        """Folder of one stage."""
        return Path(self.config.output_dir) / stage.name

    def foundation(self) -> StepAudio2ForCausalLM:
        """The model to start from, float32.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        from stepaudio.models.checkpoint import load_pretrained

        model: StepAudio2ForCausalLM = load_pretrained(self.config.foundation, device=self.device)[
            0
        ].float()
        return model

    def first_row(self) -> int:
        """First id whose embedding speech may change: recognition needs all before it."""
        return self.tokenizer.vocab.audio_patch + 1


def speech_decoder(run: SpeechRun, stage: SpeechStage) -> SpeechDecoder:
    """The module that a ``tts`` stage trains."""
    num_rows = run.tokenizer.num_tokens - run.first_row()
    model = run.foundation()
    decoder = SpeechDecoder(model.model, run.first_row(), num_rows, stage.lora)
    if stage.start is not None:
        begin_with(decoder, Path(stage.start), run, stage)
    return decoder.to(run.device)


def begin_with(decoder: SpeechDecoder, folder: Path, run: SpeechRun, stage: SpeechStage) -> None:
    """Take over an adapter and the rows of the embedding table that are no audio codes.

    Raises:
        CheckpointError: the model cannot be loaded, or has another vocabulary.
        ConfigError: its adapter has a higher rank or another scale.
    """
    from stepaudio.models.checkpoint import load_model

    adapter = load_adapter(folder / ADAPTER_FOLDER / stage.name)
    rank = adapter.config.rank
    if rank > stage.lora.rank or adapter.config.scale != stage.lora.scale:
        raise ConfigError(f"stage {stage.name}: the adapter of {folder} has another rank or scale")
    parameters = dict(decoder.backbone.named_parameters())
    table = load_model(folder).model.embed_tokens.weight.detach().float()
    if len(table) != run.tokenizer.num_tokens:
        raise CheckpointError(f"{folder}: its vocabulary is not that of {run.config.tokenizer}")
    vocab = run.tokenizer.vocab
    is_code = torch.zeros(len(table), dtype=torch.bool)
    is_code[vocab.audio_0 : vocab.audio_0 + vocab.num_codes] = True
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            rows, columns = tensor.shape
            parameters[name][:rows, :columns] = tensor
        kept = ~is_code[run.first_row() :]
        decoder.rows[kept] = table[run.first_row() :][kept]


def align_sources(run: SpeechRun) -> None:
    """Find out when every phone of the training speech is spoken, unless it is known."""
    tts = run.config.tts
    if run.workers.is_main:
        model, lexicon = run.foundation().cpu().eval(), Lexicon.read(Path(tts.lexicon))
        for source in (*tts.sources, tts.dev):
            rows = source_rows(tts, source)
            name = f"{Path(source.manifest).stem}-{source.source or 'all'}"
            align_rows(model, rows, lexicon, time_store(tts.codes), name)
    run.workers.wait()


def run_tts(run: SpeechRun, stage: SpeechStage) -> list[float]:
    """Train a reading voice; returns the losses of the steps run here."""
    if run.config.tts.guide.weight:
        align_sources(run)
    model = speech_decoder(run, stage)
    trainer: Trainer[TtsBatch] = Trainer(
        model, stage.loop, run.folder(stage), run.device, run.workers
    )
    trainer.resume()
    data = TtsData(run.config.tts, run.tokenizer, run.config.seed)

    half, guide = run.config.tts.bfloat16, run.config.tts.guide

    def loss_fn(batch: TtsBatch) -> StepResult:
        metrics = {"speech_s": batch.speech_s}
        with half_precision(run.device, enabled=half):
            if guide.weight:
                loss, attention = guided_tts_loss(model, batch, run.device, guide)
                metrics |= {"ce": float(loss.detach()), "guide": float(attention.detach())}
                loss = loss + guide.weight * attention
            else:
                loss, _ = tts_loss(model, batch, run.device)
        return StepResult(loss, metrics, batch.ids.numel())

    def evaluate() -> Mapping[str, float]:
        total, count = 0.0, 0
        for start in range(0, len(data.dev), _DEV_ROWS_A_BATCH):
            batch = data.build(data.dev[start : start + _DEV_ROWS_A_BATCH], None)
            loss, labels = tts_loss(model, batch, run.device)
            total += float(loss) * labels
            count += labels
        return {"dev/ce": total / max(1, count)}

    return trainer.run(data.batches(trainer.step, run.workers), loss_fn, evaluate)


def trained_tts(run: SpeechRun, stage: SpeechStage) -> tuple[SpeechDecoder, Adapter]:
    """Module with the averaged weights of a stage, and its adapter."""
    model = speech_decoder(run, stage)
    known = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in read_average(run.folder(stage)).items():
            known[name].copy_(value)
    return model, adapter_of(model.backbone, stage.lora)


def main(config: SpeechPretrainConfig) -> list[float]:
    """Run the stages that are not finished and write the model; returns the losses.

    Raises:
        ConfigError: a file that the configuration names is missing or damaged.
        CheckpointError: the foundation cannot be loaded.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    workers = Workers.join()
    device = torch.device("cuda", workers.rank) if wanted == "cuda" else torch.device("cpu")
    run = SpeechRun(config, TextTokenizer.from_folder(config.tokenizer), device, workers)
    losses: list[float] = []
    for stage in config.stages:
        if config.only and stage.name not in config.only:
            continue
        if stage.objective == "kept" or is_finished(run.folder(stage), stage.loop.steps):
            _log.info("stage %s is finished", stage.name)
            continue
        torch.manual_seed(config.seed)
        losses += run_tts(run, stage) if stage.objective == "tts" else run_chat(run, stage)
    if not config.only and workers.is_main:
        export(run)
    return losses


def export(run: SpeechRun) -> Path:
    """Write the foundation with the rows of speech, and the adapters, in half precision."""
    from stepaudio.models.checkpoint import pretrained_folder, save_checkpoint

    folder = Path(run.config.output_dir) / "model"
    adapters: dict[str, Adapter] = {}
    rows = None
    for stage in run.config.stages:
        if stage.objective == "tts":
            module, adapters[stage.name] = trained_tts(run, stage)
            rows = module.rows.detach()
        elif stage.objective == "kept":
            foundation = pretrained_folder(run.config.foundation)
            adapters[stage.name] = load_adapter(foundation / ADAPTER_FOLDER / stage.name)
        else:
            adapters[stage.name] = trained_chat(run, stage)
        if stage.export_rank:
            adapters[stage.name] = truncated(adapters[stage.name], stage.export_rank)
    model = run.foundation().cpu()
    if rows is not None:
        with_speech_rows(model, run.tokenizer, run.first_row(), rows.cpu())
    save_checkpoint(model.half(), folder)
    run.tokenizer.save(folder)
    for name, adapter in adapters.items():
        save_adapter(adapter, folder / ADAPTER_FOLDER / name)
    _log.info("model written to %s", folder)
    return folder


def with_speech_rows(
    model: Any, tokenizer: TextTokenizer, first_row: int, rows: torch.Tensor
) -> None:
    """Give a model the vocabulary of a tokenizer: its own rows, then those of speech."""
    table = torch.cat([model.model.embed_tokens.weight.detach()[:first_row], rows])
    embedding = torch.nn.Embedding(*table.shape)
    with torch.no_grad():
        embedding.weight.copy_(table)
    model.set_input_embeddings(embedding)
    model.lm_head = torch.nn.Linear(table.shape[1], table.shape[0], bias=False)
    model.lm_head.weight = embedding.weight
    model.config.vocab_size = tokenizer.num_tokens
