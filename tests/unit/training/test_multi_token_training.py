"""Trained blocks are right more often: loss, blocks and decoding fit each other."""

import pytest
import torch
from torch.nn import functional as F

from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.multi_token import MultiTokenGenerator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.masks import plan_attention
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.training.multi_token import index_of_drafts, multi_token_loss

PARAMS = SamplingParams(max_new_tokens=20, stop_ids=())


@pytest.mark.parametrize("reduced", [False, True])
def test_blocks_learn_what_the_decoder_writes(tiny_model, reduced):
    model = tiny_model().requires_grad_(False)
    generator = Generator(model)
    prompts = [GenerationPrompt(torch.randint(3, 190, (6,)).tolist()) for _ in range(6)]
    written = [completion.ids for completion in generator.generate(prompts, PARAMS)]
    ids = torch.tensor([[*p.ids, *new] for p, new in zip(prompts, written, strict=True)])
    labels = ids.clone()
    labels[:, :6] = -100
    draft_ids = draft_index = None
    if reduced:
        draft_ids = torch.tensor(sorted({token for new in written for token in new}))
        draft_index = index_of_drafts(draft_ids, 300)
    config = PredictorConfig(num_blocks=3, num_draft_ids=len(draft_ids) if reduced else None)
    predictor = MultiTokenPredictor.from_decoder(config, model.model, draft_ids)
    head = model.lm_head.weight if draft_ids is None else model.lm_head.weight[draft_ids]

    def mean_accepted():
        multi = MultiTokenGenerator(generator, predictor)
        completions = multi.generate(prompts, PARAMS)
        assert [completion.ids for completion in completions] == written
        passes = sum(completion.stats.passes for completion in completions)
        return sum(completion.stats.tokens - 1 for completion in completions) / passes

    before = mean_accepted()
    plan = plan_attention(ids.shape[1], ids.device, model.config.text_config.layer_windows)
    embeds = model.model.embed_tokens(ids)
    hidden = model.model(embeds, plan)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=3e-3)
    for _ in range(60):
        result = multi_token_loss(
            predictor(hidden, embeds, plan),
            labels,
            lambda state: F.linear(model.model.norm(state), head),
            draft_index=draft_index,
        )
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
    assert float(result.prefix_accuracy[-1]) > 0.95
    assert before < 2
    # The last pass of a completion of 20 tokens has fewer than three drafts that count.
    assert mean_accepted() > 3.3
