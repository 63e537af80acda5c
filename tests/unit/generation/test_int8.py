"""Decoding with int8 weights: near the reference, and no row depends on the others."""

from collections.abc import Callable

import pytest
import torch

from stepaudio.errors import ConfigError
from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.multi_token import MultiTokenGenerator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models import int8
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.models.fused import FusedDecoder
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM

Build = Callable[..., StepAudio2ForCausalLM]
FREE_RUNNING = SamplingParams(max_new_tokens=12, stop_ids=())


@pytest.fixture
def model(tiny_model: Build, monkeypatch: pytest.MonkeyPatch) -> StepAudio2ForCausalLM:
    monkeypatch.setattr(int8, "_FEW_WEIGHTS", 0)
    return tiny_model()


def prompts(count: int) -> list[GenerationPrompt]:
    generator = torch.Generator().manual_seed(0)
    lengths = range(3, 3 + 4 * count, 4)
    return [
        GenerationPrompt(torch.randint(3, 190, (n,), generator=generator).tolist()) for n in lengths
    ]


@torch.inference_mode()
def test_logits_are_near_those_of_the_reference(model: StepAudio2ForCausalLM) -> None:
    reference, ours = Generator(model), Generator(model, precision="int8")
    assert ours.decoder().precision == "int8"  # type: ignore[attr-defined]
    rows = prompts(3)
    expected = reference.prefill(rows, range(3), reference.new_cache(3, 32))
    found = ours.prefill(rows, range(3), ours.new_cache(3, 32))
    assert not torch.equal(found, expected)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99


def test_slots_give_the_ids_of_single_runs(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model, precision="int8")
    together = generator.generate(prompts(6), FREE_RUNNING, num_slots=4)
    alone = [generator.generate([prompt], FREE_RUNNING)[0] for prompt in prompts(6)]
    assert [one.ids for one in together] == [one.ids for one in alone]


def test_multi_token_decoding_writes_the_same(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model, precision="int8")
    predictor = MultiTokenPredictor.from_decoder(PredictorConfig(num_blocks=3), model.model)
    drafted = MultiTokenGenerator(generator, predictor).generate(prompts(3), FREE_RUNNING)
    single = generator.generate(prompts(3), FREE_RUNNING)
    assert [one.ids for one in drafted] == [one.ids for one in single]


@torch.inference_mode()
def test_a_row_of_a_step_is_the_same_bit_by_bit(model: StepAudio2ForCausalLM) -> None:
    decoder = FusedDecoder(model.model, model.lm_head.weight, "int8")
    generator = Generator(model)
    tokens = torch.tensor([7, 8, 9, 10])
    embeds = model.model.embed_tokens(tokens)[:, None]
    cache = generator.new_cache(4, 8)
    together = decoder(embeds, cache.begin(range(4), 1))
    for row in range(4):
        single = generator.new_cache(1, 8)
        alone = decoder(embeds[row : row + 1], single.begin([0], 1))
        assert torch.equal(alone[0], together[row])


def test_merged_weights_are_quantised_anew(model: StepAudio2ForCausalLM) -> None:
    before = Generator(model, precision="int8").generate(prompts(1), FREE_RUNNING)[0].ids
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.mul_(1.5)
    after = Generator(model, precision="int8").generate(prompts(1), FREE_RUNNING)[0].ids
    assert after != before


def test_a_small_decoder_keeps_its_weights() -> None:
    model, _ = load_pretrained("nano", device="cpu")
    decoder = Generator(model, precision="int8").decoder()
    assert isinstance(decoder, FusedDecoder)
    assert decoder.precision == "float"


def test_other_types_are_refused(model: StepAudio2ForCausalLM) -> None:
    with pytest.raises(ConfigError, match="float32 model on a CPU"):
        Generator(model.double(), precision="int8")
