"""Low-rank adapters: merged equals wrapped, files survive, others are refused."""

import json

import pytest
import torch

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.adapters import (
    LoraConfig,
    adapter_of,
    inject_lora,
    load_adapter,
    merged_backbone,
    save_adapter,
    truncated,
)
from stepaudio.models.backbone import Backbone
from stepaudio.models.config import TextConfig
from stepaudio.models.masks import plan_attention

CONFIG = TextConfig(
    vocab_size=20,
    hidden_size=16,
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
LORA = LoraConfig(rank=3, alpha=6.0)


def new_backbone() -> Backbone:
    torch.manual_seed(1)
    backbone = Backbone(CONFIG)
    backbone.init_weights()
    return backbone.eval()


def run(backbone: Backbone) -> torch.Tensor:
    embeds = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))
    return backbone(embeds, plan_attention(5, embeds.device, CONFIG.layer_windows))


@pytest.fixture
def trained():
    backbone = new_backbone()
    for layer in inject_lora(backbone, LORA):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.3)
    return backbone


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained():
    backbone = new_backbone()
    before = run(backbone)
    layers = inject_lora(backbone, LORA)
    assert len(layers) == 2 * 7
    assert torch.equal(run(backbone), before)
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(layers)
    assert all("lora_" in name for name in trained)


def test_merged_equals_wrapped_and_leaves_the_original(trained):
    original = new_backbone()
    before = run(original)
    merged = merged_backbone(original, adapter_of(trained, LORA))
    torch.testing.assert_close(run(merged), run(trained), atol=1e-5, rtol=1e-5)
    assert torch.equal(run(original), before)
    assert not torch.allclose(run(merged), before)
    assert merged.embed_tokens is original.embed_tokens


def test_a_truncated_adapter_is_the_nearest_of_its_rank(trained):
    adapter = adapter_of(trained, LORA)
    same, lower = truncated(adapter, 3), truncated(adapter, 2)
    assert lower.config.rank == 2
    assert lower.config.scale == pytest.approx(LORA.scale)
    merged = [merged_backbone(new_backbone(), one) for one in (adapter, same, lower)]
    torch.testing.assert_close(run(merged[1]), run(merged[0]), atol=1e-4, rtol=1e-4)
    before = new_backbone().layers[0].mlp.up_proj.weight
    full, _, cut = (one.layers[0].mlp.up_proj.weight - before for one in merged)
    assert torch.linalg.matrix_rank(cut.detach(), rtol=1e-3) == 2
    error = torch.linalg.matrix_norm(full - cut)
    torch.testing.assert_close(error, torch.linalg.svdvals(full)[2], atol=1e-3, rtol=1e-3)
    with pytest.raises(ConfigError, match="rank 4"):
        truncated(adapter, 4)


def test_files_hold_the_adapter_in_half_precision(trained, tmp_path):
    adapter = adapter_of(trained, LORA)
    save_adapter(adapter, tmp_path)
    loaded = load_adapter(tmp_path)
    assert loaded.config == LORA
    assert loaded.tensors.keys() == adapter.tensors.keys()
    for name, tensor in adapter.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor.half())


def test_peft_reads_the_files(trained, tmp_path):
    peft = pytest.importorskip("peft")
    save_adapter(adapter_of(trained, LORA), tmp_path)
    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.lora_alpha) == (3, 6.0)


def test_targets_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match="no_proj"):
        inject_lora(new_backbone(), LoraConfig(targets=("no_proj",)))


def test_an_adapter_of_another_size_is_refused(trained):
    wide = Backbone(TextConfig(**{**CONFIG.to_dict(), "hidden_size": 32}))
    with pytest.raises(CheckpointError, match=r"layers\.0"):
        merged_backbone(wide, adapter_of(trained, LORA))


@pytest.mark.parametrize(
    "change", [{"peft_type": "IA3"}, {"bias": "all"}, {"r": 0}, {"r": "x"}, {"target_modules": 3}]
)
def test_other_adapters_are_refused(trained, tmp_path, change):
    save_adapter(adapter_of(trained, LORA), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match="adapter_config"):
        load_adapter(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="adapter_config"):
        load_adapter(tmp_path)
