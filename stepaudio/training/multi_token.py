"""Loss of prediction blocks (StepAudio 2.5, arXiv 2605.23463, section 4).

Shape legend: B rows, T tokens, D decoder width, H blocks, V proposed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED_LABEL = -100
DECAY = 0.9


@dataclass(frozen=True)
class MultiTokenLoss:
    """Loss of one batch.

    Attributes:
        total: scalar, the weighted sum of the blocks' cross-entropies.
        per_block: [H] cross-entropies.
        prefix_accuracy: [H] share of positions where this block and all before it name the right
            token, given the right tokens ahead.
    """

    total: Tensor
    per_block: Tensor
    prefix_accuracy: Tensor


def block_weights(num_blocks: int, decay: float = DECAY) -> list[float]:
    """Weights w_h of the blocks: proportional to decay ** (h - 1), with sum 1."""
    raw = [decay**index for index in range(num_blocks)]
    return [weight / sum(raw) for weight in raw]


def block_targets(labels: Tensor, block: int) -> Tensor:
    """Token [B, T] that a block, counted from 1, predicts at every position; else -100.

    A position counts where the decoder's own next token is labelled: drafts begin only there.

    Args:
        labels: [B, T], aligned with the tokens; -100 is ignored.
        block: h; its target at t is the token at t + 1 + h.
    """
    ahead = F.pad(labels[:, 1 + block :], (0, min(1 + block, labels.shape[1])), value=IGNORED_LABEL)
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    return ahead.masked_fill(following == IGNORED_LABEL, IGNORED_LABEL)


def index_of_drafts(draft_ids: Tensor, vocab_size: int) -> Tensor:
    """Index [vocab_size] of every token in a reduced vocabulary; -100 where it is not in it."""
    index = torch.full((vocab_size,), IGNORED_LABEL, device=draft_ids.device)
    index[draft_ids] = torch.arange(len(draft_ids), device=draft_ids.device)
    return index


def multi_token_loss(
    states: Sequence[Tensor],
    labels: Tensor,
    project: Callable[[Tensor], Tensor],
    *,
    draft_index: Tensor | None = None,
    decay: float = DECAY,
) -> MultiTokenLoss:
    """Weighted cross-entropy of all blocks.

    Args:
        states: hidden states [B, T, D] of every block.
        labels: [B, T], aligned with the tokens; -100 is ignored.
        project: hidden states [N, D] to logits [N, V]; it sees only positions with a target.
        draft_index: see `index_of_drafts`; tokens outside of a reduced vocabulary teach nothing,
            and count as not predicted.
        decay: see `block_weights`.
    """
    right = torch.ones_like(labels, dtype=torch.bool)
    losses, accuracies = [], []
    for block, hidden in enumerate(states, start=1):
        targets = block_targets(labels, block)
        has_target = targets != IGNORED_LABEL
        wanted = targets[has_target]
        if draft_index is not None:
            wanted = draft_index[wanted]
        logits = project(hidden[has_target]).float()
        total = F.cross_entropy(logits, wanted, reduction="sum", ignore_index=IGNORED_LABEL)
        losses.append(total / (wanted != IGNORED_LABEL).sum().clamp(min=1))
        right = right.clone()
        right[has_target] &= logits.argmax(-1) == wanted
        accuracies.append(right[has_target].sum() / has_target.sum().clamp(min=1))
    per_block = torch.stack(losses)
    weights = per_block.new_tensor(block_weights(len(states), decay))
    return MultiTokenLoss((weights * per_block).sum(), per_block, torch.stack(accuracies))
