"""Encoder, adaptor, decoder and greedy ids against numbers of the reference code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.checkpoint import load_model
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(vectors: Path) -> StepAudio2ForCausalLM:
    ids = json.loads((vectors / "token_ids.json").read_text())
    config = StepAudioConfig(
        **json.loads((vectors / "config.json").read_text()),
        audio_start_token_id=ids["audio_start"],
        audio_patch_token_id=ids["audio_patch"],
    )
    return load_model(vectors, config=config)


@pytest.fixture(scope="module")
def single(vectors: Path) -> dict[str, Tensor]:
    return load_file(vectors / "main_single.safetensors")


@pytest.fixture(scope="module")
def greedy(vectors: Path) -> dict[str, Tensor]:
    return load_file(vectors / "main_greedy.safetensors")


def error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max())


@torch.inference_mode()
def test_single_clip(model: StepAudio2ForCausalLM, single: dict[str, Tensor]) -> None:
    encoded, adapted = model.encode_audio(single["mel"], single["mel_len"])
    assert encoded.lengths.tolist() == single["encoder_len"].tolist()
    assert error(encoded.values, single["encoder_out"]) < TOLERANCE
    assert error(adapted.values, single["adapter_out"]) < TOLERANCE
    output = model(single["input_ids"], single["mel"], single["mel_len"])
    assert error(output.logits, single["logits"]) < TOLERANCE
    output = model(single["input_ids"], audio_embeds=adapted)
    assert error(output.logits, single["logits"]) < TOLERANCE


@torch.inference_mode()
def test_without_audio(model: StepAudio2ForCausalLM, single: dict[str, Tensor]) -> None:
    output = model(single["input_ids"])
    assert error(output.logits, single["logits_no_audio"]) < TOLERANCE


@torch.inference_mode()
def test_padded_batch_with_three_clips(model: StepAudio2ForCausalLM, vectors: Path) -> None:
    batch = load_file(vectors / "main_batch.safetensors")
    mask = batch["attention_mask"]
    output = model(batch["input_ids"], batch["mel"], batch["mel_len"], attention_mask=mask)
    valid = mask.bool()
    assert error(output.logits[valid], batch["logits"][valid]) < TOLERANCE


@pytest.mark.parametrize("fuse", [True, False])
def test_greedy_ids_of_our_generator(
    model: StepAudio2ForCausalLM, single: dict[str, Tensor], greedy: dict[str, Tensor], fuse: bool
) -> None:
    latents = model.encode_audio(single["mel"], single["mel_len"])[1]
    clip = latents.values[0, : int(latents.lengths[0])].detach()
    prompt = GenerationPrompt(greedy["input_ids"][0].tolist(), [clip])
    expected = greedy["greedy_ids"][0]
    generator = Generator(model, fuse=fuse)
    [completion] = generator.generate([prompt], SamplingParams(max_new_tokens=24))
    assert completion.ids == expected.tolist()
    cache = generator.new_cache(1, 128)
    logits = generator.prefill([prompt], [0], cache)
    assert error(logits, single["logits"][:, -1]) < TOLERANCE
    for token in expected[:-1]:
        logits = generator.step(token[None], [0], cache)
    assert error(logits, greedy["last_logits"]) < TOLERANCE


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_greedy_ids_of_hugging_face_generate(
    model: StepAudio2ForCausalLM,
    single: dict[str, Tensor],
    greedy: dict[str, Tensor],
    options: dict[str, object],
) -> None:
    ids = model.generate(
        greedy["input_ids"],
        input_features=single["mel"],
        feature_lens=single["mel_len"],
        max_new_tokens=24,
        do_sample=False,
        **options,
    )
    assert ids[0, greedy["input_ids"].shape[1] :].tolist() == greedy["greedy_ids"][0].tolist()
