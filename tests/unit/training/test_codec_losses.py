"""The losses of the speech tokenizer."""

import itertools

import pytest
import torch

from stepaudio.models.encoder import Latents
from stepaudio.training.codec_losses import mel_distance, posterior_divergence, spread_loss

LEVELS = (3, 3, 5)


def every_code() -> torch.Tensor:
    """All codes once, [1, 45, 3]."""
    digits = [torch.linspace(-1, 1, n).tolist() for n in LEVELS]
    return torch.tensor([list(itertools.product(*digits))])


def test_even_and_independent_digits_cost_nothing():
    values = every_code()
    assert float(spread_loss(values, torch.tensor([45]), LEVELS)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: torch.zeros_like(v),  # one code
        lambda v: torch.cat([v[..., :1], v[..., :1], v[..., 2:]], dim=-1),  # a digit twice
        # Uncorrelated, but one digit tells whether the other is zero.
        lambda v: torch.cat([v[..., :1], v[..., 1:2] * v[..., :1].abs(), v[..., 2:]], dim=-1),
        lambda v: v.abs(),  # uneven
    ],
)
def test_codes_that_say_less_cost_something(spoil):
    assert float(spread_loss(spoil(every_code()), torch.tensor([45]), LEVELS)) > 0.02


def test_padding_is_not_spread():
    padded = torch.cat([every_code(), torch.ones(1, 30, 3)], dim=1)
    assert float(spread_loss(padded, torch.tensor([45]), LEVELS)) == pytest.approx(0, abs=1e-8)


def test_a_gradient_opens_a_collapsed_codebook():
    values = (0.1 * torch.randn(1, 45, 3, generator=torch.Generator().manual_seed(0))).detach()
    values.requires_grad_(True)
    lens = torch.tensor([45])
    before = spread_loss(values, lens, LEVELS)
    before.backward()
    after = spread_loss(values - 0.1 * values.grad / values.grad.norm(), lens, LEVELS)
    assert float(after.detach()) < float(before.detach())


def test_distances_ignore_what_is_behind_the_end():
    mel = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    other = mel.clone()
    other[1, :, 3:] += 5
    assert float(mel_distance(other, mel, torch.tensor([6, 3]))) == 0
    same = Latents(torch.randn(1, 5, 3).log_softmax(-1), torch.tensor([5]))
    assert float(posterior_divergence(same, same)) == pytest.approx(0, abs=1e-6)
