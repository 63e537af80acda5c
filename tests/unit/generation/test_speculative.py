"""Speculative sampling: every token has the distribution of sampling one by one."""

import torch

from stepaudio.generation.sampling import SamplingParams, distribution
from stepaudio.generation.speculative import SpeculativeSampler, accept, draw

NUM_ROWS = 200_000


def chi_square(ids, expected):
    counts = torch.bincount(ids, minlength=len(expected)).double()
    wanted = expected.double() * len(ids)
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    return float(((counts - wanted)[kept] ** 2 / wanted[kept]).sum())


def test_draw_has_the_distribution():
    probs = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    ids = draw(probs.expand(NUM_ROWS, -1), torch.rand(NUM_ROWS))
    assert chi_square(ids, probs) < 13.8  # 2 degrees of freedom, p = 0.001
    assert draw(probs[None], torch.tensor([1 - 2**-24])).item() == 4


def test_accepted_and_rejected_drafts_have_the_distribution_of_the_decoder():
    target = torch.tensor([[0.5, 0.2, 0.2, 0.1, 0.0], [0.1, 0.1, 0.3, 0.2, 0.3]])
    proposal = torch.tensor([[0.1, 0.6, 0.1, 0.1, 0.1]])
    drafts = draw(proposal.expand(NUM_ROWS, -1), torch.rand(NUM_ROWS))[:, None]
    accepted, behind = accept(
        target.expand(NUM_ROWS, -1, -1),
        proposal.expand(NUM_ROWS, -1, -1),
        drafts,
        torch.ones(NUM_ROWS, dtype=torch.long),
        torch.rand(NUM_ROWS, 2),
    )
    first = torch.where(accepted == 1, drafts[:, 0], behind)
    assert chi_square(first, target[0]) < 16.3  # 3 degrees of freedom, p = 0.001
    assert chi_square(behind[accepted == 1], target[1]) < 18.5  # 4 degrees of freedom
    rate = float(torch.minimum(target[0], proposal[0]).sum())
    assert abs(float(accepted.double().mean()) - rate) < 0.005


def test_greedy_rows_accept_what_agrees():
    target = torch.eye(4)[torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])]
    drafts = torch.tensor([[1, 2], [1, 0], [0, 2], [1, 2]])
    counts = torch.tensor([2, 2, 2, 1])
    accepted, behind = accept(target, torch.eye(4)[drafts], drafts, counts, torch.rand(4, 3))
    assert accepted.tolist() == [2, 1, 0, 1]
    assert behind.tolist() == [3, 2, 1, 2]


def test_distribution_is_that_of_sample():
    logits = torch.randn(3, 8)
    temperature, top_k, top_p = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0, 3, 0]), 0.8
    probs = distribution(logits, temperature, top_k, torch.full((3,), top_p))
    assert probs[0].tolist() == torch.eye(8)[logits[0].argmax()].tolist()
    assert torch.allclose(probs.sum(-1), torch.ones(3))
    best = logits[1].topk(3).indices
    assert set(probs[1].nonzero()[:, 0].tolist()) <= set(best.tolist())
    kept = probs[2] > 0
    full = (logits[2] / 0.5).softmax(-1)
    assert torch.allclose(probs[2][kept], full[kept] / full[kept].sum())


def test_penalties_see_the_drafts_before_a_token():
    device = torch.device("cpu")
    sampler = SpeculativeSampler(2, 4, device, num_drafts=2, first_code_id=4)
    sampler.assign(0, SamplingParams(repetition_penalty=10.0), [3])
    sampler.assign(1, SamplingParams(), [])
    # Without penalties token 0 would always win, with them each token wins once.
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(2, 3, -1)
    drafts = torch.tensor([[0, 1], [0, 0]])
    proposal = torch.eye(4)[drafts]
    accepted, behind = sampler.verify(logits, proposal, drafts, [2, 2], [0, 1])
    assert (accepted.tolist(), behind.tolist()) == ([2, 2], [2, 0])
    # A rejected draft leaves no trace.
    sampler.assign(0, SamplingParams(repetition_penalty=10.0), [])
    accepted, behind = sampler.verify(
        logits[:1, :2], torch.eye(4)[None, 3:], torch.tensor([[3]]), [1], [0]
    )
    assert (accepted.tolist(), behind.tolist()) == ([0], [0])
    more, next_behind = sampler.verify(
        torch.tensor([[[4.0, 0.0, 0.0, 3.0]]]),
        torch.zeros(1, 0, 4),
        torch.zeros(1, 0, dtype=torch.long),
        [0],
        [0],
    )
    assert (more.tolist(), next_behind.tolist()) == ([0], [3])
