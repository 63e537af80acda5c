"""The benchmark of multi-token decoding: it finds differences, and excuses near ties only."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.generation import SIZES, build_model
from benchmarks.multi_token import (
    completions_of,
    differences,
    hugging_face,
    measure_round,
    pass_costs,
    random_cases,
    ratio,
)
from stepaudio.generation.generator import Generator
from stepaudio.generation.multi_token import MultiTokenGenerator
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig


def test_all_ways_choose_the_same_tokens_and_differences_are_found() -> None:
    model = build_model(SIZES["tiny"], torch.device("cpu"))
    generator = Generator(model)
    predictor = MultiTokenPredictor.from_decoder(PredictorConfig(num_blocks=2), model.model)
    multi = MultiTokenGenerator(generator, predictor)
    cases = random_cases(model, generator, 2)
    reference = [completion.ids for completion in completions_of(generator, cases)]
    drafted = [completion.ids for completion in completions_of(multi, cases)]
    theirs = [hugging_face(model, case, case.params.max_new_tokens) for case in cases]
    assert differences(generator, cases, drafted, reference) == (0, 0)
    assert differences(generator, cases, theirs, reference) == (0, 0)
    wrong = [[*drafted[0][:-1], drafted[0][-1] + 1], drafted[1]]
    assert differences(generator, cases, wrong, reference)[0] == 1
    with torch.no_grad():  # every choice is a tie
        model.lm_head.weight.zero_()
    tied = Generator(model)
    assert differences(tied, cases, wrong, reference) == (0, 2)


def test_times_are_those_of_the_clock() -> None:
    model = build_model(SIZES["tiny"], torch.device("cpu"))
    generator = Generator(model)
    predictor = MultiTokenPredictor.from_decoder(PredictorConfig(num_blocks=2), model.model)
    multi = MultiTokenGenerator(generator, predictor)
    cases = random_cases(model, generator, 1)
    one = measure_round(model, generator, multi, cases, time.perf_counter)
    assert 0 < one.single < one.single_total
    assert 0 < one.hugging_face < one.hugging_face_total
    costs = pass_costs(generator, multi, cases[0], time.perf_counter)
    assert min(costs.step, costs.verify, costs.draft) > 0


def test_ratio_of_medians() -> None:
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 2.0)
    median, low, high = ratio([1.0, 2.0, 9.0], [1.0, 1.0, 1.0])
    assert median == 2.0
    assert (low, high) == pytest.approx((1.0, 9.0))
