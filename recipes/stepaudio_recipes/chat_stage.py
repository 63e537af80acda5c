"""Training of the dialogue mode: conversations of a small world, in text, for an adapter.

What the model hears is written down first, so conversations are text in both directions. The loss
is on the assistant's messages alone: answers and tool calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from stepaudio.conversation import ChatTemplate
from stepaudio.models.adapters import Adapter, LoraConfig, adapter_of, inject_lora
from stepaudio.models.backbone import Backbone
from stepaudio.models.masks import plan_attention
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio_recipes.copy_guide import FREE, CopyAligner, copy_loss
from stepaudio_recipes.dialogue_world import Conversation, World, WorldConfig
from stepaudio_recipes.guided_attention import AttentionProbe, GuideConfig
from stepaudio_recipes.text_data import IGNORED_LABEL
from stepaudio_recipes.trainer import LoopConfig, StepResult, Trainer, Workers, read_average

_EVALUATION_SEED = 7
_EVALUATION_ROWS = 25


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Data of the stage.

    Attributes:
        texts: gzip text file, what users repeat and what is foreign to the world.
        lexicon: pronunciation dictionary, what words are misheard as.
        world: what conversations are like.
        shape: rows and length of a packed batch.
        held_out: conversations of held-out templates and values that an evaluation asks.
        guide: heads that are shown what an answer copies.
        bfloat16: compute in half precision: a third faster on CPUs that have instructions for it.
    """

    texts: str = ".data/nano/texts.txt.gz"
    lexicon: str = ".data/nano/cmudict.dict.gz"
    world: WorldConfig = field(default_factory=WorldConfig)
    shape: tuple[int, int] = (8, 256)
    held_out: int = 200
    guide: GuideConfig = field(default_factory=GuideConfig)
    bfloat16: bool = False


class ChatStage(Protocol):
    """What this module asks of a stage."""

    @property
    def name(self) -> str:
        """Subfolder of the run."""

    @property
    def loop(self) -> LoopConfig:
        """Length and optimiser."""

    @property
    def lora(self) -> LoraConfig:
        """Shape of the adapter."""


class ChatSettings(Protocol):
    """What this module asks of a recipe's configuration."""

    @property
    def chat(self) -> ChatConfig:
        """Data of the stage."""

    @property
    def seed(self) -> int:
        """Seed of data and initialisation."""


class ChatRun(Protocol):
    """What this module asks of a run."""

    @property
    def config(self) -> ChatSettings:
        """Settings of the recipe."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """Tokenizer."""

    @property
    def device(self) -> torch.device:
        """Where to train."""

    @property
    def workers(self) -> Workers:
        """Processes that train together."""

    def folder(self, stage: ChatStage) -> Path:
        """Folder of a stage."""

    def foundation(self) -> StepAudio2ForCausalLM:
        """The model to start from."""


class ChatDecoder(nn.Module):
    """Decoder with an adapter; the head is the embedding table, cut to text.

    Attributes:
        backbone: frozen decoder with trained low-rank updates.
    """

    def __init__(self, backbone: Backbone, text_size: int, lora: LoraConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self._text_size = text_size
        inject_lora(backbone, lora)

    def forward(
        self, ids: Tensor, positions: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits [N, V] before every label, and the labels [N], for ids [B, T].

        Args:
            ids: tokens.
            positions: where they return to 0 a packed conversation begins; None: rows are whole.
            labels: tokens that count, `IGNORED_LABEL` elsewhere.
        """
        backbone = self.backbone
        windows = backbone.config.layer_windows
        plan = plan_attention(ids.shape[1], ids.device, windows, position_ids=positions)
        table = backbone.embed_tokens.weight
        hidden = backbone(F.embedding(ids, table), plan)
        targets = F.pad(labels, (0, 1), value=IGNORED_LABEL)[:, 1:]
        labelled = targets != IGNORED_LABEL
        return F.linear(hidden[labelled], table[: self._text_size]), targets[labelled]


# ---- data ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChatBatch:
    """Packed conversations, all [B, T].

    Attributes:
        ids: tokens.
        positions: restart at 0 with every conversation.
        labels: the assistant's tokens, `IGNORED_LABEL` elsewhere.
        places: for every token, where the next one is copied from, see `CopyAligner`.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    places: Tensor

    def to(self, device: torch.device) -> ChatBatch:
        """The batch on a device."""
        columns = (self.ids, self.positions, self.labels, self.places)
        return ChatBatch(*(column.to(device) for column in columns))


def chat_batches(
    world: World, tokenizer: TextTokenizer, shape: tuple[int, int], seed: int, step: int = 0
) -> Iterator[tuple[int, ChatBatch]]:
    """Endless packed batches of conversations; that of a step is a function of seed and step.

    Args:
        world: what conversations are drawn from.
        tokenizer: the model's tokenizer.
        shape: rows and length; the last conversation of a row is cut.
        seed: of the data.
        step: where to begin.

    Yields:
        Steps and batches.
    """
    template = ChatTemplate(tokenizer)
    piece = lru_cache(maxsize=None)(lambda token: tokenizer.decode([token]))
    aligner = CopyAligner(tokenizer.vocab.bot, tokenizer.vocab.tool_call, piece)
    while True:
        rng = Random(f"{seed} chat {step}")
        rows = [_packed_row(world, template, aligner, shape[1], rng) for _ in range(shape[0])]
        columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
        yield step, ChatBatch(*columns)
        step += 1


def _packed_row(
    world: World, template: ChatTemplate, aligner: CopyAligner, length: int, rng: Random
) -> tuple[list[int], ...]:
    """Columns of a batch: conversations one behind the other."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    places: list[int] = []
    while len(ids) < length:
        prompt = template.render(world.conversation(rng).messages(), prime=False)
        aligned = aligner.places(prompt.ids, prompt.loss_mask)
        places += [FREE if place == FREE else place + len(ids) for place in aligned]
        ids += prompt.ids
        positions += range(len(prompt.ids))
        labels += labels_of(prompt.ids, prompt.loss_mask)
    return ids[:length], positions[:length], labels[:length], places[:length]


def labels_of(ids: Sequence[int], loss_mask: Sequence[bool]) -> list[int]:
    """Ids that count in the loss, `IGNORED_LABEL` for the others."""
    return [i if counts else IGNORED_LABEL for i, counts in zip(ids, loss_mask, strict=True)]


# ---- training --------------------------------------------------------------------------------


def run_chat(run: ChatRun, stage: ChatStage) -> list[float]:
    """Train the dialogue adapter; returns the losses of the steps run here."""
    module = chat_decoder(run, stage)
    trainer: Trainer[ChatBatch] = Trainer(
        module, stage.loop, run.folder(stage), run.device, run.workers
    )
    trainer.resume()
    chat, template = run.config.chat, ChatTemplate(run.tokenizer)
    texts, lexicon = Path(chat.texts), Path(chat.lexicon)
    world = World.read(texts, lexicon, "train", chat.world)
    unseen = World.read(texts, lexicon, "held_out", chat.world)
    rng = Random(_EVALUATION_SEED)
    questions = [unseen.conversation(rng) for _ in range(chat.held_out)]

    def loss_fn(batch: ChatBatch) -> StepResult:
        batch = batch.to(run.device)
        probe = AttentionProbe()
        with (
            torch.autocast(run.device.type, torch.bfloat16, enabled=chat.bfloat16),
            probe.watch(module.backbone, chat.guide.layers if chat.guide.weight else ()),
        ):
            logits, targets = module(batch.ids, batch.positions, batch.labels)
        right = (logits.argmax(-1) == targets).float().mean()
        loss = F.cross_entropy(logits.float(), targets)
        metrics = {"ce": float(loss.detach()), "right": float(right)}
        if chat.guide.weight:
            copied = copy_loss(probe, module.backbone, chat.guide, batch.positions, batch.places)
            metrics["copied"] = float(copied.detach())
            loss = loss + chat.guide.weight * copied
        return StepResult(loss, metrics, batch.ids.numel())

    def evaluate() -> Mapping[str, float]:
        outcomes = exact_answers(module, questions, template, run.device)
        return {f"exact/{skill}": share for skill, share in shares(outcomes).items()}

    # Every process draws its own conversations.
    seed = run.config.seed + run.workers.rank
    batches = chat_batches(world, run.tokenizer, chat.shape, seed, trainer.step)
    return trainer.run(batches, loss_fn, evaluate)


def chat_decoder(run: ChatRun, stage: ChatStage) -> ChatDecoder:
    """The module that a stage trains."""
    backbone = run.foundation().model
    return ChatDecoder(backbone, run.tokenizer.vocab.text_size, stage.lora).to(run.device)


def trained_chat(run: ChatRun, stage: ChatStage) -> Adapter:
    """Adapter of a stage, with the averaged weights.

    Raises:
        CheckpointError: the stage has no checkpoint.
    """
    module = chat_decoder(run, stage)
    known = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in read_average(run.folder(stage)).items():
            known[name].copy_(value)
    return adapter_of(module.backbone, stage.lora)


# ---- evaluation ------------------------------------------------------------------------------


@torch.no_grad()
def exact_answers(
    module: ChatDecoder,
    conversations: Sequence[Conversation],
    template: ChatTemplate,
    device: torch.device,
) -> list[tuple[str, bool]]:
    """For every turn its skill, and whether each token of the assistant is the likeliest one.

    That is what greedy decoding would get right, given what was right before.
    """
    outcomes: list[tuple[str, bool]] = []
    for first in range(0, len(conversations), _EVALUATION_ROWS):
        some = conversations[first : first + _EVALUATION_ROWS]
        prompts = [template.render(c.messages(), prime=False) for c in some]
        ids = pad_sequence([torch.tensor(p.ids) for p in prompts], batch_first=True)
        rows = [torch.tensor(labels_of(p.ids, p.loss_mask)) for p in prompts]
        labels = pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL)
        logits, targets = module(ids.to(device), None, labels.to(device))
        right = iter((logits.argmax(-1) == targets).tolist())
        for conversation, prompt in zip(some, prompts, strict=True):
            messages = iter(
                all([next(right) for _ in run])
                for counts, run in groupby(prompt.loss_mask)
                if counts
            )
            for turn in conversation.turns:
                parts = [next(messages) for _ in range(1 if turn.call is None else 2)]
                outcomes.append((turn.skill, all(parts)))
    return outcomes


def shares(outcomes: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Share of what is right by skill, and of all."""
    by_skill: defaultdict[str, list[bool]] = defaultdict(list)
    for skill, right in outcomes:
        by_skill[skill].append(right)
        by_skill["all"].append(right)
    return {skill: sum(found) / len(found) for skill, found in sorted(by_skill.items())}
