"""Training losses against direct computations."""

import itertools

import torch

from stepaudio.models.encoder import Latents
from stepaudio.training.losses import ctc_loss


def test_ctc_loss_sums_over_all_alignments():
    torch.manual_seed(0)
    log_probs = torch.randn(1, 4, 3).log_softmax(-1)
    total = torch.tensor(0.0)
    for path in itertools.product(range(3), repeat=4):
        merged = [s for s, _ in itertools.groupby(path) if s]
        if merged == [1, 2]:
            total = (
                total + torch.stack([log_probs[0, t, s] for t, s in enumerate(path)]).sum().exp()
            )
    loss = ctc_loss(
        Latents(log_probs, torch.tensor([4])), torch.tensor([[1, 2]]), torch.tensor([2])
    )
    assert torch.allclose(loss, -total.log() / 2, atol=1e-5)


def test_too_short_clips_and_padding_do_not_count():
    torch.manual_seed(0)
    log_probs = torch.randn(2, 4, 3).log_softmax(-1)
    alone = ctc_loss(
        Latents(log_probs[:1], torch.tensor([4])), torch.tensor([[1, 2]]), torch.tensor([2])
    )
    both = ctc_loss(
        Latents(log_probs, torch.tensor([4, 1])),
        torch.tensor([[1, 2], [1, 2]]),
        torch.tensor([2, 2]),
    )
    assert torch.isfinite(both)
    assert torch.allclose(both, alone / 2)
