"""Rewards of audio codes that can be differentiated, as pure tensor functions.

A reader that says which phones some codes mean judges what a speaking model wrote, and its gradient
tells, code by code, what would have been understood better (DiffRO of CosyVoice 3, arXiv
2505.17589).

Shape legend: N codes, C size of the codebook.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def straight_through_codes(logits: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Sampled codes as one-hot rows [N, C] whose gradient is that of their distribution.

    Args:
        logits: [N, C] of the model that sampled the codes.
        codes: int64 [N].
        temperature: of the distribution; a low one moves the likeliest codes only.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    probabilities = (logits / temperature).softmax(-1)
    chosen = F.one_hot(codes, logits.shape[-1]).to(probabilities.dtype)
    return chosen + probabilities - probabilities.detach()


def policy_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of a model [N, C] from a reference [N, C], in nats a code.

    No gradient flows to the reference.
    """
    log_probs = logits.log_softmax(-1)
    difference = log_probs - reference.detach().log_softmax(-1)
    return (log_probs.exp() * difference).sum(-1).mean()
