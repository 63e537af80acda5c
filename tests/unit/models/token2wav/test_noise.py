"""Noise as a function of seed, channel and position."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.models.token2wav.noise import positional_noise

positions = st.integers(0, 2**40)


@given(seed=st.integers(0, 2**62), start=positions, cut=st.integers(0, 64))
def test_any_cut_gives_the_same(seed: int, start: int, cut: int) -> None:
    whole = positional_noise([seed], [start], (3, 64))
    tail = positional_noise([seed], [start + cut], (3, 64 - cut))
    assert torch.equal(whole[..., cut:], tail)


def test_rows_are_independent() -> None:
    both = positional_noise([5, 9], [100, 7], (2, 50))
    assert torch.equal(both[1:], positional_noise([9], [7], (2, 50)))


def test_it_is_normal_and_uncorrelated() -> None:
    noise = positional_noise([0, 1, 1 << 33], [0, 0, 0], (4, 100_000)).flatten(0, 1).double()
    assert noise.mean(1).abs().max() < 0.02
    assert (noise.std(1) - 1).abs().max() < 0.02
    assert (noise.pow(4).mean(1) - 3).abs().max() < 0.15
    assert 4 < noise.abs().max() < 7
    correlation = torch.corrcoef(torch.cat([noise, noise.roll(1, dims=1)]))
    assert (correlation - torch.eye(24)).abs().max() < 0.02


def test_positions_far_away_differ() -> None:
    near = positional_noise([0], [0], (1, 1000))
    far = positional_noise([0], [2**32], (1, 1000))
    assert (near - far).abs().max() > 1
