"""Phone targets in training."""

import pytest
import torch

from stepaudio.models.encoder import Latents
from stepaudio.training.losses import ctc_loss
from stepaudio_recipes.lexicon import PHONES, Lexicon
from stepaudio_recipes.phones import phone_loss


@pytest.fixture
def lexicon():
    return Lexicon({"cat": [("K", "AE", "T"), ("K", "AA", "T")]})


def posteriors(lengths):
    logits = torch.randn(len(lengths), max(lengths), len(PHONES) + 1, requires_grad=True)
    return logits, Latents(logits.log_softmax(-1), torch.tensor(lengths))


def test_the_loss_is_that_of_the_known_texts(lexicon):
    _, heard = posteriors([10, 8])
    alone = Latents(heard.values[1:, :8], heard.lengths[1:])
    expected = ctc_loss(alone, torch.tensor([lexicon.targets("cat")]), torch.tensor([3]))
    assert phone_loss(heard, lexicon, ["zzzq", "cat"]).item() == pytest.approx(expected.item())


def test_without_a_known_text_the_loss_is_zero_and_has_gradients(lexicon):
    logits, heard = posteriors([10])
    loss = phone_loss(heard, lexicon, ["zzzq"])
    loss.backward()
    assert loss == 0 and logits.grad is not None
