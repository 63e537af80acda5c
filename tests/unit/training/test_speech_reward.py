"""Rewards of audio codes that can be differentiated."""

import pytest
import torch
from torch.nn import functional as F

from stepaudio.training.speech_reward import policy_divergence, straight_through_codes

CODES = torch.tensor([2, 0, 4])


@pytest.fixture
def logits():
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_the_codes_are_those_that_were_sampled(logits):
    chosen = straight_through_codes(logits, CODES, 0.7)
    torch.testing.assert_close(chosen, F.one_hot(CODES, 5).float())


def test_the_gradient_is_that_of_the_distribution(logits):
    worth = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    (straight_through_codes(logits, CODES, 0.7) * worth).sum().backward()
    expected = torch.autograd.functional.jacobian(
        lambda x: ((x / 0.7).softmax(-1) * worth).sum(), logits.detach()
    )
    torch.testing.assert_close(logits.grad, expected)


def test_what_is_worth_more_becomes_likelier(logits):
    worth = torch.zeros(3, 5)
    worth[:, 3] = 1.0
    loss = -(straight_through_codes(logits, CODES, 1.0) * worth).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    before, after = logits.softmax(-1), (logits - 0.1 * gradient).softmax(-1)
    assert bool((after[:, 3] > before[:, 3]).all())


def test_a_temperature_is_positive(logits):
    with pytest.raises(ValueError, match="positive, got 0"):
        straight_through_codes(logits, CODES, 0)


def test_divergence_is_that_of_kullback_and_leibler(logits):
    other = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    divergence = policy_divergence(logits, other)
    expected = F.kl_div(
        other.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(divergence, expected)
    divergence.backward()
    assert other.grad is None
    assert float(policy_divergence(logits, logits).detach()) == pytest.approx(0, abs=1e-6)
