"""Fine-tuning of a public checkpoint: loss on text and audio tokens, LoRA or all weights, saved
so that other tools load it."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from stepaudio.models.checkpoint import load_model
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import IGNORED_LABEL, StepAudio2ForCausalLM

AUDIO_START, AUDIO_0 = 310, 318  # of the vectors' token ids
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture
def model(vectors: Path) -> StepAudio2ForCausalLM:
    values = json.loads((vectors / "config.json").read_text())
    ids = {"audio_start_token_id": AUDIO_START, "audio_patch_token_id": 312}
    return load_model(vectors, config=StepAudioConfig(**values, **ids)).train()


@pytest.fixture
def batch(vectors: Path) -> dict[str, Tensor]:
    """A clip and an answer in speech; the loss counts on its text and audio tokens."""
    single = load_file(vectors / "main_single.safetensors")
    groups = [[20 + n, *range(AUDIO_0 + 4 * n, AUDIO_0 + 4 * n + 4)] for n in range(3)]
    answer = torch.tensor([[token for group in groups for token in group] + [316, 301]])
    ids = torch.cat([single["input_ids"], answer], dim=1)
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[:, -answer.shape[1] :] = answer
    return {
        "input_ids": ids,
        "input_features": single["mel"],
        "feature_lens": single["mel_len"],
        "labels": labels,
    }


def train(model: nn.Module, batch: dict[str, Tensor], steps: int = 4) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_loss_counts_on_text_and_on_audio_tokens(
    model: StepAudio2ForCausalLM, batch: dict[str, Tensor]
) -> None:
    labels = batch["labels"]
    is_audio = labels >= AUDIO_0
    only_audio = labels.masked_fill(~is_audio, IGNORED_LABEL)
    only_text = labels.masked_fill(is_audio, IGNORED_LABEL)
    with torch.no_grad():
        both, audio, text = (
            float(model(**batch | {"labels": part}).loss) * int((part != IGNORED_LABEL).sum())
            for part in (labels, only_audio, only_text)
        )
    assert audio > 0 and text > 0
    assert both == pytest.approx(audio + text, rel=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_full_fine_tuning(
    model: StepAudio2ForCausalLM, batch: dict[str, Tensor], frozen: bool
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.encoder.requires_grad_(not frozen)
    losses = train(model, batch)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not before[name].equal(value)}
    assert {name.split(".")[0] for name in changed} == (
        {"model", "lm_head", "adapter"} | (set() if frozen else {"encoder"})
    )


def test_saved_weights_load_in_other_tools(
    model: StepAudio2ForCausalLM, batch: dict[str, Tensor], vectors: Path, tmp_path: Path
) -> None:
    train(model, batch)
    model.eval().save_pretrained(tmp_path / "tuned")
    check_public_layout(tmp_path / "tuned", vectors)
    check_same_numbers(model, tmp_path / "tuned", batch)


def test_lora_is_merged_and_saved(
    model: StepAudio2ForCausalLM, batch: dict[str, Tensor], vectors: Path, tmp_path: Path
) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION)
    adapted = peft.get_peft_model(model, config)
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    losses = train(adapted, batch)
    assert losses[-1] < losses[0]
    merged = adapted.merge_and_unload().eval()
    merged.save_pretrained(tmp_path / "tuned")
    check_public_layout(tmp_path / "tuned", vectors)
    check_same_numbers(merged, tmp_path / "tuned", batch)


def check_public_layout(folder: Path, vectors: Path) -> None:
    """Names, shapes and configuration are those of the checkpoint that was tuned."""
    with safe_open(vectors / "model.safetensors", "pt") as old:
        with safe_open(folder / "model.safetensors", "pt") as new:
            assert set(new.keys()) == set(old.keys())
            for name in old.keys():
                assert new.get_slice(name).get_shape() == old.get_slice(name).get_shape()
    saved = json.loads((folder / "config.json").read_text())
    public = json.loads((vectors / "config.json").read_text())
    for section in ("text_config", "audio_encoder_config"):
        assert public[section].items() <= saved[section].items()


@torch.inference_mode()
def check_same_numbers(
    model: StepAudio2ForCausalLM, folder: Path, batch: dict[str, Tensor]
) -> None:
    """Our own loader and transformers' Qwen2 compute what the tuned model computes."""
    saved = json.loads((folder / "config.json").read_text())
    ids = {"audio_start_token_id": AUDIO_START, "audio_patch_token_id": 312}
    loaded = load_model(folder, config=StepAudioConfig(**saved | ids))
    ours = model(**batch).logits
    assert torch.allclose(loaded(**batch).logits, ours, atol=1e-6)
    text = {k: v for k, v in saved["text_config"].items() if k != "eos_token_id"}
    qwen = Qwen2ForCausalLM(Qwen2Config(**text, tie_word_embeddings=False)).eval()
    weights = load_file(folder / "model.safetensors")
    decoder = {k: v for k, v in weights.items() if k.startswith(("model.", "lm_head."))}
    qwen.load_state_dict(decoder)
    written = batch["input_ids"]
    assert torch.allclose(qwen(written).logits, model(written).logits, atol=1e-4)
