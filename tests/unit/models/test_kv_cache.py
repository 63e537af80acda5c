"""Slot cache: capacity, rollback, reset."""

from collections.abc import Callable

import pytest
import torch

from stepaudio.errors import CapacityError
from stepaudio.models.kv_cache import SlotKVCache
from stepaudio.models.step_audio import StepAudio2ForCausalLM

Build = Callable[..., StepAudio2ForCausalLM]


def fill(model: StepAudio2ForCausalLM, cache: SlotKVCache, slot: int, count: int) -> None:
    ids = torch.randint(3, 190, (1, count))
    with torch.inference_mode():
        model(ids, past_key_values=cache.begin([slot], count))


def test_lengths_grow_by_the_valid_tokens(tiny_model: Build) -> None:
    model = tiny_model()
    cache = SlotKVCache(model.config.text_config, 3, 32)
    with torch.inference_mode():
        step = cache.begin([2, 0], 4, [4, 1])
        model(torch.randint(3, 190, (2, 4)), past_key_values=step)
    assert cache.lengths == [1, 0, 4]
    cache.reset([True, False, False])
    assert cache.lengths == [0, 0, 4]
    cache.reset(torch.tensor([False, False, True]))
    assert cache.lengths == [0, 0, 0]


def test_full_slots_and_long_caches_are_refused(tiny_model: Build) -> None:
    model = tiny_model()
    cache = SlotKVCache(model.config.text_config, 1, 8)
    fill(model, cache, 0, 8)
    with pytest.raises(CapacityError, match="slot 0 holds 8 of 8"):
        cache.begin([0], 1)
    with pytest.raises(CapacityError, match="256"):
        SlotKVCache(model.config.text_config, 1, 257)


def test_truncate_checks_its_argument(tiny_model: Build) -> None:
    model = tiny_model()
    cache = SlotKVCache(model.config.text_config, 1, 8)
    fill(model, cache, 0, 3)
    with pytest.raises(ValueError, match="holds 3"):
        cache.truncate(0, 4)
    cache.truncate(0, 0)
    assert cache.lengths == [0]


def test_ring_layers_stay_small_and_refuse_deep_rollback(tiny_model: Build) -> None:
    model = tiny_model(use_sliding_window=True, sliding_window=4, max_window_layers=2)
    cache = SlotKVCache(model.config.text_config, 1, 200, rollback=3)
    assert [buffer.shape[3] for buffer in cache.buffers] == [201, 201, 8]
    fill(model, cache, 0, 20)
    cache.truncate(0, 16)
    fill(model, cache, 0, 4)
    with pytest.raises(CapacityError, match="rollback"):
        cache.truncate(0, 15)
    cache.truncate(0, 0)
