"""Steps from buffers that stay where they are: those of a generator, slot by slot."""

from collections.abc import Callable

import pytest
import torch

from stepaudio.errors import CapacityError
from stepaudio.generation import static_step
from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.static_step import StaticSteps
from stepaudio.models.fused import FusedDecoder
from stepaudio.models.kv_cache import SlotKVCache
from stepaudio.models.step_audio import StepAudio2ForCausalLM

Build = Callable[..., StepAudio2ForCausalLM]


def begun(
    model: StepAudio2ForCausalLM, max_len: int = 40
) -> tuple[Generator, SlotKVCache, torch.Tensor]:
    """A cache of three slots with ragged prompts, and the token behind each."""
    generator = Generator(model)
    cache = generator.new_cache(3, max_len)
    draw = torch.Generator().manual_seed(0)
    prompts = [
        GenerationPrompt(torch.randint(3, 190, (n,), generator=draw).tolist()) for n in (4, 9, 6)
    ]
    return generator, cache, generator.prefill(prompts, range(3), cache).argmax(-1)


def steps_of(model: StepAudio2ForCausalLM, generator: Generator, cache: SlotKVCache) -> StaticSteps:
    decoder = generator.decoder()
    assert isinstance(decoder, FusedDecoder)
    return StaticSteps(model, decoder, cache)


@pytest.mark.parametrize("windowed", [False, True])
@torch.inference_mode()
def test_steps_equal_those_of_a_generator(
    tiny_model: Build, windowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_step, "_SHORTEST", 8)
    window = {"use_sliding_window": True, "sliding_window": 6} if windowed else {}
    model = tiny_model(**window)
    generator, cache, tokens = begun(model)
    _, own, _ = begun(model)
    steps = steps_of(model, generator, own)
    steps.hold(range(3), tokens)
    addresses = steps.tokens.data_ptr(), [buffer.data_ptr() for buffer in own.buffers]
    for _ in range(20):
        logits = generator.step(tokens, range(3), cache)
        tokens = logits.argmax(-1)
        assert torch.equal(steps.advance(), tokens)
        assert steps.logits is not None
        assert torch.allclose(steps.logits, logits, atol=1e-4)
    assert own.lengths == cache.lengths
    assert addresses == (steps.tokens.data_ptr(), [buffer.data_ptr() for buffer in own.buffers])


@torch.inference_mode()
def test_a_slot_that_is_not_held_does_not_change(tiny_model: Build) -> None:
    model = tiny_model()
    generator, cache, tokens = begun(model)
    steps = steps_of(model, generator, cache)
    steps.hold([0, 2], tokens[[0, 2]])
    kept = [buffer[:, 1, :, :-1].clone() for buffer in cache.buffers]
    steps.advance()
    steps.release(2)
    third = int(steps.tokens[2])
    steps.advance()
    assert cache.lengths == [6, 9, 7]
    assert int(steps.tokens[2]) == third
    for before, buffer in zip(kept, cache.buffers, strict=True):
        assert torch.equal(buffer[:, 1, :, :-1], before)


def test_a_full_slot_and_none(tiny_model: Build) -> None:
    model = tiny_model()
    generator, cache, tokens = begun(model, max_len=9)
    steps = steps_of(model, generator, cache)
    with pytest.raises(ValueError, match="no slot"):
        steps.advance()
    steps.hold([1], tokens[1:2])
    with pytest.raises(CapacityError, match="9 of 9"):
        steps.advance()
