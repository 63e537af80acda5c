"""The dialogue stage: batches, where answers copy from, training that resumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from random import Random

import pytest
import torch

from stepaudio.conversation import ChatTemplate
from stepaudio.models.adapters import LoraConfig
from stepaudio.models.backbone import Backbone
from stepaudio.models.config import TextConfig
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio_recipes.chat_stage import ChatDecoder, chat_batches, exact_answers, shares
from stepaudio_recipes.copy_guide import FREE, CopyAligner, copy_loss
from stepaudio_recipes.dialogue_world import World
from stepaudio_recipes.guided_attention import AttentionProbe, GuideConfig
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.text_data import IGNORED_LABEL
from tests.unit.conftest import tokenizer_definition


@pytest.fixture(scope="module")
def spacing_tokenizer() -> TextTokenizer:
    return TextTokenizer(tokenizer_definition(adds_space=True))


TEXTS = [f"i like {noun} a lot" for noun in "cats dogs trains boats houses rivers".split()] * 40
TEXTS += [f"we saw the {n} in the {m}" for n in "cat dog bird fox".split() for m in ("sea", "sun")]
WORDS = {"cats": ["K", "AE"], "dogs": ["D", "AO"], "like": ["L", "AY"], "lot": ["L", "AA"]}


@pytest.fixture(scope="module")
def world() -> World:
    texts = [f"{text} {n}" for n, text in enumerate(TEXTS)]
    return World.build(texts, Lexicon({w: [p] for w, p in WORDS.items()}))


def test_a_batch_is_a_function_of_seed_and_step(
    world: World, spacing_tokenizer: TextTokenizer
) -> None:
    shape = (2, 96)
    run = list(islice(chat_batches(world, spacing_tokenizer, shape, 5), 4))
    step, resumed = next(chat_batches(world, spacing_tokenizer, shape, 5, step=3))
    _, other = next(chat_batches(world, spacing_tokenizer, shape, 6, step=3))
    assert [s for s, _ in run] == [0, 1, 2, 3]
    assert step == 3
    for name in ("ids", "positions", "labels", "places"):
        assert getattr(run[3][1], name).shape == shape
        assert torch.equal(getattr(run[3][1], name), getattr(resumed, name))
    assert not torch.equal(resumed.ids, other.ids)
    assert not torch.equal(run[2][1].ids, resumed.ids)


def test_the_loss_is_on_answers_and_calls_alone(
    world: World, spacing_tokenizer: TextTokenizer
) -> None:
    _, batch = next(chat_batches(world, spacing_tokenizer, (4, 2048), 0))
    tokenizer = spacing_tokenizer
    text = tokenizer.decode(batch.ids[0].tolist(), skip_special=False)
    labelled = [i for i in batch.labels[0].tolist() if i != IGNORED_LABEL]
    trained = tokenizer.decode(labelled, skip_special=False)
    assert "<|BOT|>" in text
    assert "<|BOT|>" not in trained
    answers = [part for part in trained.split("<|EOT|>") if part][:-1]
    assert len(answers) > 5
    for answer in answers:
        assert f"{answer.strip()}<|EOT|>" in text


def test_answers_are_aligned_with_what_they_copy() -> None:
    bot, eot = 100, 101
    aligner = CopyAligner(
        bot, None, lambda token: {1: "ca", 2: "t", 11: "c", 12: "a", 13: "t"}.get(token, "word")
    )
    #      0    1  2  3    4    5   6  7  8    9    10  11 12
    ids = [bot, 9, 5, eot, bot, 30, 7, 8, eot, bot, 31, 7, 8, eot]
    counts = [False] * 11 + [True] * 3
    places = aligner.places(ids, counts)
    assert places == [FREE] * 10 + [6, 7, 8, FREE]
    spelled = [bot, 9, 5, eot, bot, 30, 1, 2, eot, bot, 31, 11, 12, 13, eot]
    places = aligner.places(spelled, [False] * 11 + [True] * 4)
    assert places == [FREE] * 10 + [6, 6, 7, FREE, FREE]


def test_answers_are_no_sources() -> None:
    bot, eot = 100, 101
    first = [bot, 30, 7, eot, bot, 31]
    ids = [*first, 1, 2, 3, eot, *first, 1, 2, 3, eot]
    counts = ([False] * 6 + [True] * 4) * 2
    places = CopyAligner(bot, None, str).places(ids, counts)
    assert [p for p in places[10:] if p != FREE] in ([], [13])


def tiny_decoder() -> ChatDecoder:
    torch.manual_seed(0)
    values = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "max_position_embeddings": 512,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    backbone = Backbone(TextConfig.from_dict(values))
    backbone.init_weights()
    return ChatDecoder(backbone, 280, LoraConfig(rank=4, alpha=8.0))


def test_packed_conversations_do_not_see_each_other() -> None:
    decoder = tiny_decoder()
    ids = torch.randint(0, 280, (1, 12))
    labels = torch.full((1, 12), IGNORED_LABEL)
    labels[0, 9:] = ids[0, 9:]
    positions = torch.tensor([[*range(6), *range(6)]])
    logits, targets = decoder(ids, positions, labels)
    alone, _ = decoder(ids[:, 6:], None, labels[:, 6:])
    assert targets.tolist() == ids[0, 9:].tolist()
    torch.testing.assert_close(logits, alone)


def test_guided_heads_learn_their_places() -> None:
    decoder = tiny_decoder()
    config = GuideConfig(weight=1.0, layers=(1,))
    ids = torch.randint(0, 280, (2, 10))
    positions = torch.tensor([[*range(10)], [*range(4), *range(6)]])
    places = torch.full((2, 10), FREE)
    places[0, 8], places[1, 9] = 2, 5
    optimizer = torch.optim.Adam([p for p in decoder.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(30):
        probe = AttentionProbe()
        with probe.watch(decoder.backbone, config.layers):
            decoder(ids, positions, ids)
        loss = copy_loss(probe, decoder.backbone, config, positions, places)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


@dataclass
class Oracle:
    """A decoder that gives the right token, but for one conversation's first."""

    wrong: int
    seen: list[int] = field(default_factory=list)

    def __call__(
        self, ids: torch.Tensor, positions: None, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        targets = labels[labels != IGNORED_LABEL]
        guess = targets.clone()
        guess[self.wrong] += 1
        return torch.nn.functional.one_hot(guess, int(targets.max()) + 2).float(), targets


def test_an_answer_is_right_if_every_token_is(
    world: World, spacing_tokenizer: TextTokenizer
) -> None:
    conversations = [world.conversation(Random(n)) for n in range(3)]
    template = ChatTemplate(spacing_tokenizer)
    decoder: ChatDecoder = Oracle(wrong=0)  # type: ignore[assignment]
    outcomes = exact_answers(decoder, conversations, template, torch.device("cpu"))
    skills = [turn.skill for c in conversations for turn in c.turns]
    assert [skill for skill, _ in outcomes] == skills
    assert [right for _, right in outcomes] == [False] + [True] * (len(skills) - 1)
    assert shares(outcomes)["all"] == pytest.approx((len(skills) - 1) / len(skills))
