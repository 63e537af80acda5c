"""Choosing tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepaudio.generation.sampling import SamplingBatch, SamplingParams, sample

CPU = torch.device("cpu")


def draw(logits: Tensor, uniform: Tensor, *, t: float = 1.0, k: int = 0, p: float = 1.0) -> Tensor:
    rows = len(uniform)
    return sample(
        logits.expand(rows, -1),
        torch.full((rows,), t),
        torch.full((rows,), k),
        torch.full((rows,), p),
        uniform,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_frequencies_follow_the_probabilities() -> None:
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniform = (torch.arange(1000) + 0.5) / 1000
    counts = draw(probs.log(), uniform).bincount(minlength=4)
    assert torch.allclose(counts / 1000, probs, atol=0.002)
    hot = draw(probs.log(), uniform, t=2.0).bincount(minlength=4) / 1000
    assert torch.allclose(hot, probs.sqrt() / probs.sqrt().sum(), atol=0.002)


def test_top_k_and_top_p_cut_the_tail() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    uniform = (torch.arange(1000) + 0.5) / 1000
    assert set(draw(logits, uniform, k=2).tolist()) == {2, 3}
    assert set(draw(logits, uniform, p=0.5).tolist()) == {2, 3}
    assert set(draw(logits, uniform, p=0.39).tolist()) == {3}
    # as in transformers, top_p looks at what top_k has left: 0.4 / 0.7 > 0.55
    assert set(draw(logits, uniform, k=2, p=0.55).tolist()) == {3}


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    permille=st.integers(0, 999),
    k=st.integers(0, 9),
    percent=st.integers(1, 100),
)
def test_drawn_token_is_always_allowed(seed: int, permille: int, k: int, percent: int) -> None:
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)) * 5
    uniform = torch.tensor([permille / 1000])
    token = int(draw(logits, uniform, k=k, p=percent / 100))
    order = logits[0].argsort(descending=True).tolist()
    assert order.index(token) < (min(k, 8) if k else 8)


def test_rows_have_their_own_parameters() -> None:
    batch = SamplingBatch(3, 50, CPU)
    batch.assign(0, SamplingParams(), [])
    batch.assign(1, SamplingParams(temperature=1.0, seed=5), [])
    batch.assign(2, SamplingParams(repetition_penalty=100.0), [7])
    logits = torch.zeros(3, 50)
    logits[:, 7], logits[:, 9], logits[:, 11] = 2.0, 1.0, 0.5
    ids, log_probs = batch.choose(logits, range(3))
    assert ids[0] == 7
    assert ids[2] == 9
    assert torch.allclose(log_probs, logits.log_softmax(-1).gather(1, ids[:, None])[:, 0])
    assert batch.choose(logits, range(3))[0][2] == 11


def test_text_and_audio_have_penalties_of_their_own() -> None:
    logits = torch.zeros(1, 50)
    logits[0, 5], logits[0, 40], logits[0, 6], logits[0, 41] = 4.0, 3.9, 2.0, 1.9

    def first(**penalties: float) -> int:
        batch = SamplingBatch(1, 50, CPU, first_code_id=30)
        batch.assign(0, SamplingParams(**penalties), [5, 40])
        return int(batch.choose(logits, [0])[0])

    assert first() == 5
    assert first(repetition_penalty=10.0) == 6
    assert first(repetition_penalty=10.0, audio_repetition_penalty=1.0) == 40
    assert first(audio_repetition_penalty=10.0) == 5
    assert first(repetition_penalty=1.5, audio_repetition_penalty=1.1) == 40
    with pytest.raises(ValueError, match="audio_repetition_penalty"):
        SamplingParams(audio_repetition_penalty=0.0)


def test_seed_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(20, 50)
    params = SamplingParams(temperature=1.0, seed=11)

    def run(slot: int, num_slots: int) -> list[int]:
        batch = SamplingBatch(num_slots, 50, CPU)
        batch.assign(slot, params, [])
        return [int(batch.choose(logits[i : i + 1], [slot])[0]) for i in range(20)]

    assert run(0, 1) == run(2, 3)


def test_a_moved_slot_goes_on_where_it_was() -> None:
    logits = torch.randn(1, 50)
    params = SamplingParams(temperature=1.0, repetition_penalty=1.3, seed=3)
    alone = SamplingBatch(1, 50, CPU)
    alone.assign(0, params, [4])
    expected = [int(alone.choose(logits, [0])[0]) for _ in range(6)]
    moved = SamplingBatch(2, 50, CPU)
    moved.assign(1, params, [4])
    got = [int(moved.choose(logits, [1])[0]) for _ in range(3)]
    moved.move(1, 0)
    got += [int(moved.choose(logits, [0])[0]) for _ in range(3)]
    assert got == expected


def test_processors_change_the_logits() -> None:
    def favour(logits: Tensor, slots: Tensor) -> Tensor:
        return logits.index_fill(1, torch.tensor([3]), 100.0)

    batch = SamplingBatch(1, 50, CPU, [favour])
    assert int(batch.choose(torch.randn(1, 50), [0])[0]) == 3
