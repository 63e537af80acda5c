"""Guided attention: the probe sees what the decoder computes, the loss wants the diagonal."""

import pytest
import torch

from stepaudio.models.backbone import Backbone
from stepaudio.models.config import TextConfig
from stepaudio.models.layers import apply_rotary
from stepaudio.models.masks import plan_attention
from stepaudio_recipes.guided_attention import (
    AttentionProbe,
    GuideConfig,
    guide_loss,
    guided,
    place_weights,
)

CONFIG = TextConfig(
    vocab_size=20,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    max_position_embeddings=64,
    eos_token_id=1,
    pad_token_id=0,
)
# Two rows: the reading is tokens 2 to 5, and 3 to 6; tokens 8 to 15 speak it.
READINGS = torch.tensor([[2, 6], [3, 7]])
PLACES = torch.full((2, 17), -1.0)
PLACES[0, 8:16] = torch.linspace(2, 5, 8)
PLACES[1, 8:16] = torch.linspace(3, 6, 8)
SIZE = 17


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Backbone(CONFIG)


def run(backbone):
    embeds = torch.randn(2, SIZE, 32, generator=torch.Generator().manual_seed(1))
    return backbone(embeds, plan_attention(SIZE, embeds.device, CONFIG.layer_windows))


@pytest.mark.parametrize("head", range(4))
def test_the_probe_has_the_logits_of_the_layer(backbone, head):
    attention = backbone.layers[1].self_attn
    seen = {}
    attention.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0], rot=inputs[1]))
    with AttentionProbe().watch(backbone, [1]) as probe:
        run(backbone)
    queries = apply_rotary(attention._heads(attention.q_proj(seen["x"])), *seen["rot"])
    keys = apply_rotary(attention._heads(attention.k_proj(seen["x"])), *seen["rot"])
    expected = queries[:, head] @ keys[:, head // 2].transpose(1, 2) * attention.head_width**-0.5
    torch.testing.assert_close(probe.logits(attention, 1, head), expected)


def test_hooks_are_gone_behind_the_context(backbone):
    with AttentionProbe().watch(backbone, [0, 1]):
        pass
    modules = list(backbone.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_weights_lie_around_the_place_and_in_the_reading_only():
    weights = place_weights(PLACES, READINGS, 1.0)
    assert weights.shape == (2, SIZE, SIZE)
    assert weights[0].nonzero()[:, 0].unique().tolist() == list(range(8, 16))
    assert weights[0].nonzero()[:, 1].unique().tolist() == [2, 3, 4, 5]
    assert weights[0, 8, 2] == 1
    assert weights[0, 8].argmax() == 2
    assert weights[0, 15].argmax() == 5
    assert weights[1, 15].argmax() == 6


def test_the_loss_is_small_where_attention_is_at_its_place():
    weights = place_weights(PLACES, READINGS, 0.5)
    at_place = torch.where(weights > 0, weights.clamp(min=1e-9).log() * 3, torch.tensor(-30.0))
    nowhere = torch.zeros(2, SIZE, SIZE)
    assert guide_loss(at_place, weights) < 0.4 < 1 < guide_loss(nowhere, weights)


def test_the_future_counts_for_nothing():
    weights = place_weights(PLACES, READINGS, 1.0)
    logits = torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    future = torch.ones(SIZE, SIZE).triu(1) * 100
    torch.testing.assert_close(guide_loss(logits + future, weights), guide_loss(logits, weights))


def test_a_few_updates_teach_the_heads(backbone):
    config = GuideConfig(weight=1.0, layers=(0, 1), head=3)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        with AttentionProbe().watch(backbone, config.layers) as probe:
            run(backbone)
        loss = guided(probe, backbone, config, PLACES, READINGS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
