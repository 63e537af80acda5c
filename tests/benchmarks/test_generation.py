"""The benchmark of generation: both sides choose the same tokens, and totals add up."""

from __future__ import annotations

import pytest
import torch

from benchmarks.generation import (
    SIZES,
    build_model,
    build_request,
    growth,
    integral,
    measure,
    spread,
)
from stepaudio.generation.generator import Generator


def test_both_sides_choose_the_same_tokens() -> None:
    model = build_model(SIZES["tiny"], torch.device("cpu"))
    request = build_request(model, 1.0)
    positions = spread(8, 3)
    assert positions == [1, 5, 8]
    times = measure(model, Generator(model), request, 8, positions)
    assert (len(times.ours), len(times.recomputed)) == (8, 3)
    assert times.num_same == 3


def test_growth_is_that_of_the_clock() -> None:
    model = build_model(SIZES["tiny"], torch.device("cpu"))
    generator, ticks = Generator(model), iter(range(10**6))
    assert growth(generator, build_request(model, 1.0), 8, lambda: float(next(ticks))) == 1.0


def test_integral_of_a_line_is_its_sum() -> None:
    positions = [1, 4, 10]
    assert integral(positions, [2.0 * p for p in positions]) == pytest.approx(2 * sum(range(1, 11)))
