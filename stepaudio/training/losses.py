"""Training losses as pure tensor functions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.encoder import Latents


def ctc_loss(log_probs: Latents, targets: Tensor, target_lens: Tensor) -> Tensor:
    """Mean CTC loss per target token.

    Args:
        log_probs: [B, T, V] log-probabilities with the blank at index 0, and valid lengths.
        targets: [B, U] ids from 1, padded with anything.
        target_lens: [B].

    Returns:
        Scalar. Clips too short for their target count as zero.
    """
    losses = F.ctc_loss(
        log_probs.values.transpose(0, 1),
        targets,
        log_probs.lengths,
        target_lens,
        reduction="none",
        zero_infinity=True,
    )
    return losses.sum() / target_lens.sum().clamp(min=1)
