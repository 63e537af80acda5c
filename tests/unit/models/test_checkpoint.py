"""Strict loading, atomic saving, the public layout."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models import checkpoint
from stepaudio.models.checkpoint import load_model, save_checkpoint
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.hub import checkpoint_folder
from stepaudio.models.step_audio import StepAudio2ForCausalLM

Build = Callable[..., StepAudio2ForCausalLM]
SHARD = 100_000
FULL_SIZE: dict[str, Any] = {
    "text_config": {
        "vocab_size": 158720,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 16384,
        "eos_token_id": 151643,
        "pad_token_id": 151643,
    },
    "audio_encoder_config": {
        "n_mels": 128,
        "n_audio_ctx": 1500,
        "n_audio_state": 1280,
        "n_audio_head": 20,
        "n_audio_layer": 32,
        "llm_dim": 3584,
        "kernel_size": 3,
        "adapter_stride": 2,
    },
}


@pytest.fixture
def folder(tiny_model: Build, tmp_path: Path) -> Path:
    save_checkpoint(tiny_model(), tmp_path / "model", max_shard_bytes=SHARD)
    return tmp_path / "model"


def same_weights(a: StepAudio2ForCausalLM, b: StepAudio2ForCausalLM) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_names_and_shapes_at_full_size() -> None:
    listed = json.loads(
        (Path(__file__).parents[2] / "assets/step_audio_2_mini_shapes.json").read_text()
    )
    expected = {}
    for name, shape in listed.items():
        count = re.search(r"\{0\.\.(\d+)\}", name)
        for index in range(int(count[1]) + 1 if count else 1):
            expected[re.sub(r"\{.*\}", str(index), name)] = shape
    assert len(expected) == 832
    with torch.device("meta"):
        model = StepAudio2ForCausalLM(StepAudioConfig(**FULL_SIZE))
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == 8_315_179_264


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_in_shards(tiny_model: Build, tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tied=tied)
    save_checkpoint(model, tmp_path / "m", max_shard_bytes=SHARD)
    shards = sorted(tmp_path.glob("m/*.safetensors"))
    assert len(shards) > 2
    assert all(path.stat().st_size < SHARD + 10_000 for path in shards)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in shards)  # others may read
    loaded = load_model(tmp_path / "m", verify_hash=True)
    assert same_weights(loaded, model)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    assert loaded.generation_config.eos_token_id == [1]
    assert not loaded.training
    names = {name for path in shards for name in load_file(path)}
    assert ("lm_head.weight" in names) is not tied


def test_half_precision_storage_loads_as_float32(tiny_model: Build, tmp_path: Path) -> None:
    save_checkpoint(tiny_model(), tmp_path / "m", dtype=torch.float16)
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert load_model(tmp_path / "m").dtype == torch.float32
    assert load_model(tmp_path / "m", dtype=torch.float16).dtype == torch.float16
    assert json.loads((tmp_path / "m/config.json").read_text())["torch_dtype"] == "float16"


def test_values_beyond_half_precision_are_refused(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = 1e6
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        save_checkpoint(model, tmp_path / "m", dtype=torch.float16)
    assert not (tmp_path / "m").exists()
    assert list(tmp_path.iterdir()) == []


def test_wrong_tensors_are_one_error_that_lists_them(folder: Path) -> None:
    path = max(folder.glob("*.safetensors"), key=lambda path: len(load_file(path)))
    tensors = load_file(path)
    missing, reshaped = sorted(tensors)[:2]
    shape = list(tensors.pop(missing).shape)
    tensors[reshaped] = torch.zeros(3, 2)
    tensors["model.surplus.weight"] = torch.zeros(5)
    save_file(tensors, path)  # without metadata, as in public shards
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert f"missing (1): {missing} {shape}" in message
    assert "surplus (1): model.surplus.weight [5]" in message
    assert f"wrong shape (1): {reshaped} [3, 2], expected " in message


def test_shards_without_metadata_load(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        save_file(load_file(path), path)
    load_model(folder, verify_hash=True)


def test_damaged_files_are_named(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=path.name):
        load_model(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=path.name):
        load_model(folder)
    (folder / checkpoint.INDEX_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=checkpoint.INDEX_FILE):
        load_model(folder)
    (folder / checkpoint.INDEX_FILE).unlink()
    with pytest.raises(CheckpointError, match=checkpoint.WEIGHTS_FILE):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model(folder)


def test_bad_configurations_are_named(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_model(folder)
    del values["text_config"]["rope_theta"]
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"config\.json: .*rope_theta"):
        load_model(folder)


def test_altered_weights_are_found_by_their_hash(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    next(iter(tensors.values())).flatten()[0].add_(1e-3)
    save_file(tensors, path)
    load_model(folder)
    with pytest.raises(CheckpointError, match="hash"):
        load_model(folder, verify_hash=True)


def test_saving_replaces_weights_and_keeps_other_files(tiny_model: Build, folder: Path) -> None:
    (folder / "tokenizer.json").write_text("kept")
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("kept")
    model = tiny_model(seed=1)
    save_checkpoint(model, folder)
    assert [p.name for p in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert not (folder / checkpoint.INDEX_FILE).exists()
    assert (folder / "tokenizer.json").read_text() == "kept"
    assert (folder / "sub" / "file").read_text() == "kept"
    assert same_weights(load_model(folder), model)


def test_interrupted_saving_leaves_the_old_checkpoint(
    tiny_model: Build, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_model(folder)

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tiny_model(seed=1), folder)
    assert same_weights(load_model(folder), before)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_auto_classes_and_save_pretrained(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "m", max_shard_size="100KB")
    assert len(list(tmp_path.glob("m/*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert isinstance(loaded, StepAudio2ForCausalLM)
    assert same_weights(loaded, model)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="bfloat16").dtype == (
        torch.bfloat16
    )
    with pytest.raises(ValueError, match="quantization_config"):
        StepAudio2ForCausalLM.from_pretrained(tmp_path / "m", quantization_config={"bits": 4})


def test_unmerged_adapters_are_refused(tiny_model: Build, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model()
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(CheckpointError, match="merge"):
        save_checkpoint(model, tmp_path / "m")


def test_missing_repository_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="no such folder") as caught:
        StepAudio2ForCausalLM.from_pretrained(
            "someone/some-model", cache_dir=tmp_path, local_files_only=True
        )
    assert "hf download someone/some-model" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="hf download"):
        checkpoint_folder("someone/some-model", cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model("./not/here/at/all")
