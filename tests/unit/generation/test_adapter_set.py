"""Adapters of a checkpoint: rows of one batch use different decoders over one foundation."""

import pytest
import torch

from stepaudio.errors import ConfigError
from stepaudio.generation.adapters import AdapterSet
from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.adapters import LoraConfig, adapter_of, inject_lora, save_adapter
from stepaudio.models.checkpoint import load_pretrained

LORA = LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "down_proj"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    for seed, name in enumerate(("talk", "answer")):
        backbone = load_pretrained("nano", device="cpu")[0].float().model
        torch.manual_seed(seed)
        for layer in inject_lora(backbone, LORA):
            torch.nn.init.normal_(layer.lora_B.weight, std=2.0)
        save_adapter(adapter_of(backbone, LORA), path / "adapters" / name)
    return path


def test_ids_follow_the_names(folder):
    adapters = AdapterSet.load(folder)
    assert adapters.ids == {"answer": 1, "talk": 2}
    assert adapters.id_of(None) == 0
    assert adapters.id_of("talk") == 2
    with pytest.raises(ConfigError, match=r"'sing'.*answer, talk"):
        adapters.id_of("sing")


def test_a_checkpoint_without_adapters_has_none(tmp_path):
    adapters = AdapterSet.load(tmp_path)
    assert adapters.ids == {}
    with pytest.raises(ConfigError, match="only none"):
        adapters.id_of("talk")


def test_a_mixed_batch_gives_what_each_adapter_gives_alone(folder):
    model = load_pretrained("nano", device="cpu")[0].float().eval()
    adapters = AdapterSet.load(folder)
    generator = Generator(model, adapters=adapters.decoders(model))
    params = SamplingParams(max_new_tokens=6, stop_ids=())
    prompts = [GenerationPrompt([2071, 300 + row, 301], adapter=row) for row in range(3)]
    together = [done.ids for done in generator.generate(prompts, params)]
    alone = [generator.generate([prompt], params)[0].ids for prompt in prompts]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == 3
    plain = Generator(model).generate([GenerationPrompt([2071, 300, 301])], params)[0].ids
    assert together[0] == plain
