"""Decoders that lean to phrases, one token at a time and several."""

import pytest
import torch

from stepaudio.generation.bias import PhraseBias, add_bias
from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.multi_token import MultiTokenGenerator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig


def test_phrases_are_continued_where_they_stand():
    bias = PhraseBias([[1, 2, 3], [2, 4]], first=0.5, further=2.0)
    starts = {1: 0.5, 2: 0.5}
    assert bias.bias([]) == bias.bias([9]) == bias.bias([1, 2, 3]) == starts
    assert bias.bias([1]) == {1: 0.5, 2: 2.0}
    # What was heard is the beginning of one phrase and the middle of another.
    assert bias.bias([9, 9, 9, 9, 1, 2]) == starts | {3: 2.0, 4: 2.0}


def test_rows_without_bias_are_left_alone():
    logits = torch.zeros(2, 5)
    bias = PhraseBias([[1, 2]], first=0.0, further=3.0)
    assert add_bias(logits, [(None, ()), (None, ())]) is logits
    changed = add_bias(logits, [(None, ()), (bias, (1,))])
    assert changed.tolist() == [[0] * 5, [0, 0, 3, 0, 0]]
    assert not logits.any()


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(3)
    sizes = (5, 9, 14, 3)
    return [
        GenerationPrompt(torch.randint(10, 190, (size,), generator=generator).tolist())
        for size in sizes
    ]


@pytest.mark.parametrize("fuse", [True, False])
@torch.inference_mode()
def test_drafts_do_not_change_what_a_biased_decoder_writes(tiny_model, prompts, fuse):
    model = tiny_model().double()
    model.config.audio_start_token_id, model.config.audio_patch_token_id = 5, 7
    torch.manual_seed(1)
    predictor = MultiTokenPredictor.from_decoder(PredictorConfig(num_blocks=4), model.model)
    generator = Generator(model, text_only=True, fuse=fuse)
    bias = PhraseBias([[1, 3, 2], [4, 4, 1], [0, 2]], first=0.5, further=3.0)
    plain = SamplingParams(max_new_tokens=30, stop_ids=())
    biased = SamplingParams(max_new_tokens=30, stop_ids=(), bias=bias)
    mixed = [biased, plain, biased, biased]
    single = generator.generate(prompts, mixed, num_slots=3)
    drafted = MultiTokenGenerator(generator, predictor).generate(prompts, mixed, num_slots=3)
    assert [c.ids for c in drafted] == [c.ids for c in single]
    for ours, theirs in zip(drafted, single, strict=True):
        assert ours.log_probs == pytest.approx(theirs.log_probs)
    assert sum(sum(c.stats.accepted) for c in drafted) > 0
    unbiased = generator.generate(prompts, plain)
    differs = [a.ids != b.ids for a, b in zip(single, unbiased, strict=True)]
    assert any(differs) and not differs[1]


@torch.inference_mode()
def test_biased_greedy_is_the_argmax_of_the_changed_logits(tiny_model, prompts):
    model = tiny_model().double()
    generator = Generator(model)
    bias = PhraseBias([[17, 33, 5], [60, 2]], first=1.0, further=5.0)
    params = SamplingParams(max_new_tokens=12, stop_ids=(), bias=bias)
    (completion,) = generator.generate(prompts[:1], params)
    ids: list[int] = []
    for token, log_prob in zip(completion.ids, completion.log_probs, strict=True):
        row = model(input_ids=torch.tensor([[*prompts[0].ids, *ids]]), use_cache=False).logits[
            0, -1
        ]
        changed = row.clone()
        for other, value in bias.bias(ids).items():
            changed[other] += value
        assert token == int(changed.argmax())
        assert log_prob == pytest.approx(float(row.log_softmax(-1)[token]), abs=1e-5)
        ids.append(token)
    assert len(ids) == 12
