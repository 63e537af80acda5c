"""The fused decoder: compiled and not, it is the same."""

from collections.abc import Callable

import pytest
import torch

from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.models import fused
from stepaudio.models.fused import FusedDecoder, Precision
from stepaudio.models.step_audio import StepAudio2ForCausalLM


@pytest.mark.parametrize("precision", ["float", "int8"])
@torch.inference_mode()
def test_compiled_layers_equal_their_modules(
    tiny_model: Callable[..., StepAudio2ForCausalLM],
    precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stepaudio.models.int8._FEW_WEIGHTS", 0)
    model = tiny_model()
    generator = Generator(model, fuse=False)
    embeds = generator.embed([GenerationPrompt([5, 6, 7, 8]), GenerationPrompt([9, 10, 11, 12])])
    found = []
    for compiles in (True, False):
        if not compiles:
            monkeypatch.setattr(fused, "_compiled", lambda module, device: module.eval())
        decoder = FusedDecoder(model.model, model.lm_head.weight, precision)
        cache = generator.new_cache(2, 16)
        first = decoder.hidden(embeds, cache.begin(range(2), 4))
        step = decoder(embeds[:, :1], cache.begin(range(2), 1))
        found.append(torch.cat([decoder.project(first[:, -1]), step]))
        assert cache.lengths == [5, 5]
    assert torch.allclose(found[0], found[1], atol=1e-6)
