"""Decoder: padding, packing, caches and checkpointing do not change numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from stepaudio.models.kv_cache import SlotKVCache
from stepaudio.models.step_audio import StepAudio2ForCausalLM

TOLERANCE = 1e-4
WINDOWED = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
Build = Callable[..., StepAudio2ForCausalLM]


@pytest.fixture(params=[{}, WINDOWED], ids=["full", "windowed"])
def model(request: pytest.FixtureRequest, tiny_model: Build) -> StepAudio2ForCausalLM:
    return tiny_model(**request.param)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, 190, (3, 20))


@pytest.fixture
def expected(model: StepAudio2ForCausalLM, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(ids).logits


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert float((ours - reference).abs().max()) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(model: StepAudio2ForCausalLM, ids: Tensor, expected: Tensor, side: str) -> None:
    padding = torch.zeros(3, 4, dtype=torch.long)
    ones = torch.ones_like(ids)
    order = [padding, ids] if side == "left" else [ids, padding]
    mask = [padding, ones] if side == "left" else [ones, padding]
    logits = model(torch.cat(order, 1), attention_mask=torch.cat(mask, 1)).logits
    assert_close(logits[:, 4:] if side == "left" else logits[:, :20], expected)
    assert logits.isfinite().all()


@torch.inference_mode()
def test_packed_sequences_do_not_see_each_other(
    model: StepAudio2ForCausalLM, ids: Tensor, expected: Tensor
) -> None:
    packed = torch.cat([ids[0, :8], ids[1, :12]])[None]
    positions = torch.cat([torch.arange(8), torch.arange(12)])[None]
    logits = model(packed, position_ids=positions).logits[0]
    assert_close(logits[:8], expected[0, :8])
    assert_close(logits[8:], expected[1, :12])


@torch.inference_mode()
def test_hugging_face_cache(model: StepAudio2ForCausalLM, ids: Tensor, expected: Tensor) -> None:
    past = DynamicCache(config=model.config)
    assert_close(model(ids[:, :11], past_key_values=past).logits, expected[:, :11])
    assert_close(model(ids[:, 11:14], past_key_values=past).logits, expected[:, 11:14])
    for t in range(14, 20):
        logits = model(ids[:, t : t + 1], past_key_values=past).logits
        assert_close(logits, expected[:, t : t + 1])


@torch.inference_mode()
def test_left_padded_hugging_face_cache(
    model: StepAudio2ForCausalLM, ids: Tensor, expected: Tensor
) -> None:
    padded = torch.cat([torch.zeros(3, 4, dtype=torch.long), ids], 1)
    mask = (padded != 0).long()
    past = DynamicCache(config=model.config)
    model(padded[:, :18], attention_mask=mask[:, :18], past_key_values=past)
    for t in range(18, 24):
        output = model(padded[:, t : t + 1], attention_mask=mask[:, : t + 1], past_key_values=past)
        assert_close(output.logits[:, 0], expected[:, t - 4])


@torch.inference_mode()
def test_ragged_slots(model: StepAudio2ForCausalLM, ids: Tensor, expected: Tensor) -> None:
    cache = SlotKVCache(model.config.text_config, num_slots=4, max_len=64, rollback=6)
    row_of = {2: 0, 0: 1, 3: 2}  # slot 1 stays empty
    lens = [9, 12, 5]
    logits = model(ids[:, :12], past_key_values=cache.begin(list(row_of), 12, lens)).logits
    for row, length in enumerate(lens):
        assert_close(logits[row, :length], expected[row, :length])
    more = torch.stack([ids[0, 9:11], ids[1, 12:14]])
    logits = model(more, past_key_values=cache.begin([2, 0], 2, [2, 1])).logits
    assert_close(logits[0], expected[0, 9:11])
    assert_close(logits[1, 0], expected[1, 12])
    assert cache.lengths == [13, 0, 11, 5]
    while any(cache.lengths[slot] < 20 for slot in row_of):
        held = list(cache.lengths)
        live = [slot in row_of and held[slot] < 20 for slot in range(4)]
        tokens = [[int(ids[row_of[s], held[s]])] if live[s] else [0] for s in range(4)]
        step = cache.begin(range(4), 1, [int(flag) for flag in live])
        logits = model(torch.tensor(tokens), past_key_values=step).logits
        for slot, row in row_of.items():
            if live[slot]:
                assert_close(logits[slot, 0], expected[row, held[slot]])
    assert cache.lengths == [20, 0, 20, 20]


@torch.inference_mode()
def test_rollback_and_copy(model: StepAudio2ForCausalLM, ids: Tensor, expected: Tensor) -> None:
    cache = SlotKVCache(model.config.text_config, num_slots=2, max_len=64, rollback=6)
    wrong = torch.cat([ids[:1, :15], ids[1:2, :4]], 1)
    model(wrong, past_key_values=cache.begin([0], 19))
    cache.truncate(0, 15)
    cache.copy_slot(0, 1)
    both = model(ids[:1, 15:].expand(2, -1), past_key_values=cache.begin([0, 1], 5)).logits
    assert_close(both, expected[:1, 15:])


def test_gradient_checkpointing_gives_the_same_gradients(tiny_model: Build, ids: Tensor) -> None:
    gradients = []
    for enabled in (False, True):
        model = tiny_model().train()
        if enabled:
            model.activation_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    assert gradients[0] is not None and gradients[0].abs().sum() > 0
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
