"""Loss of prediction blocks: weights, targets, reduced vocabularies."""

import pytest
import torch
from torch.nn import functional as F

from stepaudio.training.multi_token import (
    block_targets,
    block_weights,
    index_of_drafts,
    multi_token_loss,
)


def test_weights_are_those_of_the_report():
    assert [round(w, 4) for w in block_weights(5)] == [0.2442, 0.2198, 0.1978, 0.1780, 0.1602]


def test_targets_lie_ahead_and_begin_where_drafts_do():
    labels = torch.tensor([[-100, -100, 7, 8, 9]])
    assert block_targets(labels, 1).tolist() == [[-100, 8, 9, -100, -100]]
    assert block_targets(labels, 2).tolist() == [[-100, 9, -100, -100, -100]]
    assert block_targets(labels, 7).tolist() == [[-100] * 5]


def test_loss_is_the_weighted_cross_entropy():
    labels = torch.tensor([[-100, -100, 1, 2, 3], [-100, 3, 0, 1, -100]])
    states = [torch.randn(2, 5, 4) for _ in range(2)]
    head = torch.randn(4, 4)
    result = multi_token_loss(states, labels, lambda hidden: hidden @ head)
    # Block 1 predicts the token two places ahead, block 2 that three places ahead.
    first = F.cross_entropy(
        torch.stack([states[0][0, 1], states[0][0, 2], states[0][1, 0], states[0][1, 1]]) @ head,
        torch.tensor([2, 3, 0, 1]),
    )
    second = F.cross_entropy(
        torch.stack([states[1][0, 1], states[1][1, 0]]) @ head, torch.tensor([3, 1])
    )
    assert result.per_block.tolist() == pytest.approx([float(first), float(second)])
    assert float(result.total) == pytest.approx(float(first / 1.9 + 0.9 * second / 1.9))


def test_accuracy_counts_prefixes():
    labels = torch.tensor([[-100, 0, 1, 2, 3, 0, 1]])
    eye = torch.eye(4) * 9
    # Block 1 errs at the second position, block 2 nowhere.
    first = eye[torch.tensor([1, 3, 3, 0, 1, 0, 0])][None]
    second = eye[torch.tensor([2, 3, 0, 1, 0, 0, 0])][None]
    result = multi_token_loss([first, second], labels, lambda hidden: hidden)
    assert result.prefix_accuracy.tolist() == pytest.approx([4 / 5, 3 / 4])


def test_tokens_outside_of_a_reduced_vocabulary_teach_nothing():
    draft_ids = torch.tensor([1, 3])
    labels = torch.tensor([[-100, 1, 2, 3, 1]])
    states = [torch.randn(1, 5, 2, requires_grad=True)]
    index = index_of_drafts(draft_ids, 5)
    assert index.tolist() == [-100, 0, -100, 1, -100]
    result = multi_token_loss(states, labels, lambda hidden: hidden, draft_index=index)
    result.total.backward()
    assert states[0].grad is not None
    assert states[0].grad[0].abs().sum(-1).gt(0).tolist() == [False, True, True, False, False]


def test_a_batch_without_targets_has_no_loss():
    labels = torch.full((1, 4), -100)
    result = multi_token_loss([torch.randn(1, 4, 3)], labels, lambda hidden: hidden)
    assert (float(result.total), float(result.prefix_accuracy)) == (0.0, 0.0)
