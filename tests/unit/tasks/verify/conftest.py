"""Folders of reference numbers: a copy of the public ones, and one made here of other sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stepaudio.audio.frames import FrameGeometry, num_mel_frames
from stepaudio.audio.mel import log_mel, mel_filters
from stepaudio.audio.prompt_features import VoiceMel, fade_window, kaldi_fbank
from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM

FILES = (
    "config.json",
    "token_ids.json",
    "token_counts.json",
    "model.safetensors",
    "main_single.safetensors",
    "main_batch.safetensors",
    "main_greedy.safetensors",
    "mel_extra.safetensors",
    "prompt_features.safetensors",
    "mel_3s_128.npy",
    "wav_3s_16k.npy",
)


@pytest.fixture
def main_folder(vectors: Path, tmp_path: Path) -> Path:
    """Reference numbers of the language model and of what it hears."""
    for name in FILES:
        shutil.copy(vectors / name, tmp_path / name)
    return tmp_path


IDS = {"pad": 90, "eot": 91, "bot": 92, "audio_start": 100, "audio_end": 101, "audio_patch": 102}
IDS |= {"tts_start": 105, "tts_end": 106, "tts_pad": 107, "audio_0": 108, "n_codes": 50}


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """The same format with another model, other inputs and other dimensions."""
    torch.manual_seed(7)
    values = {
        "text_config": {
            "vocab_size": 160,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
            "max_position_embeddings": 128,
            "eos_token_id": 91,
            "pad_token_id": 90,
            "initializer_range": 0.2,
        },
        "audio_encoder_config": {
            "n_mels": 80,
            "n_audio_ctx": 200,
            "n_audio_state": 32,
            "n_audio_head": 2,
            "n_audio_layer": 3,
            "llm_dim": 48,
            "kernel_size": 3,
            "adapter_stride": 2,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "token_ids.json").write_text(json.dumps(IDS))
    config = StepAudioConfig(**values, audio_start_token_id=100, audio_patch_token_id=102)
    model = StepAudio2ForCausalLM(config).eval()
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    _write_mels(tmp_path)
    _write_model_outputs(tmp_path, model)
    return tmp_path


def _write_mels(folder: Path) -> None:
    counts = [
        {
            "samples": n,
            "mel_frames": num_mel_frames(n),
            "audio_tokens": FrameGeometry().tokens_for_samples(n),
            "audio_tokens_vllm_fork": FrameGeometry().tokens(num_mel_frames(n)),
        }
        for n in (5000, 77_777)
    ]
    (folder / "token_counts.json").write_text(json.dumps(counts))
    wav, odd = torch.randn(20_000) * 0.1, torch.randn(3210) * 0.1
    np.save(folder / "wav_3s_16k.npy", wav.numpy())
    np.save(folder / "mel_3s_128.npy", log_mel(wav, 80).numpy())
    extra = {"filters_128": mel_filters(80), "wav_odd": odd, "mel_odd": log_mel(odd, 80)}
    extra["mel_3s_nopad"] = log_mel(wav, 80, padding=0)
    save_file(extra, folder / "mel_extra.safetensors")
    prompt = {"wav16k": torch.randn(1, 8000), "wav24k": torch.randn(1, 9000)}
    prompt["prompt_mel80"] = VoiceMel()(prompt["wav24k"])
    prompt["fbank80"] = kaldi_fbank(prompt["wav16k"][0], subtract_mean=False)
    prompt["fbank80_cmn"] = kaldi_fbank(prompt["wav16k"][0])
    prompt["speech_window"] = fade_window(100)
    save_file(prompt, folder / "prompt_features.safetensors")


@torch.inference_mode()
def _write_model_outputs(folder: Path, model: StepAudio2ForCausalLM) -> None:
    ids = _row(11)[None]
    mel, lens = torch.randn(2, 80, 90), torch.tensor([88, 50])
    lens_of = {"single": lens[:1], "batch": lens}
    stages = _stages(model, mel[:1], lens[:1])
    encoded, adapted = model.encode_audio(mel[:1], lens[:1])
    single = stages | {
        "mel": mel[:1],
        "mel_len": lens_of["single"].int(),
        "encoder_out": encoded.values,
        "encoder_len": encoded.lengths.int(),
        "adapter_out": adapted.values,
        "input_ids": ids,
        "logits": model(ids, audio_embeds=adapted).logits,
        "logits_no_audio": model(ids).logits,
    }
    save_file({k: v.contiguous() for k, v in single.items()}, folder / "main_single.safetensors")
    rows = torch.full((2, 20), IDS["pad"])
    rows[0, :18], rows[1, :13] = _row(11, 18), _row(6, 13)
    mask = (torch.arange(20) < torch.tensor([[18], [13]])).long()
    mel[1, :, 52:] = 0
    encoded, adapted = model.encode_audio(mel, lens)
    batch = {
        "mel": mel,
        "mel_len": lens.int(),
        "encoder_out": encoded.values,
        "encoder_len": encoded.lengths.int(),
        "adapter_out": adapted.values,
        "n_tokens": adapted.lengths,
        "input_ids": rows,
        "attention_mask": mask,
        "logits": model(rows, mel, lens, attention_mask=mask).logits,
    }
    save_file({k: v.contiguous() for k, v in batch.items()}, folder / "main_batch.safetensors")
    clip = model.encode_audio(single["mel"], single["mel_len"])[1].values[0]
    prompt = GenerationPrompt(ids[0].tolist(), [clip])
    params = SamplingParams(max_new_tokens=9, stop_ids=())
    (done,) = Generator(model, fuse=False).generate([prompt], params)
    whole = torch.cat([ids, torch.tensor([done.ids])], dim=1)
    logits = model(whole[:, :-1], single["mel"], single["mel_len"]).logits[:, -1]
    greedy = {"input_ids": ids, "greedy_ids": torch.tensor([done.ids]), "last_logits": logits}
    save_file({k: v.contiguous() for k, v in greedy.items()}, folder / "main_greedy.safetensors")


def _row(num_patches: int, size: int = 18) -> Tensor:
    """Text around an audio of so many latents."""
    row = torch.randint(0, 80, (size,))
    row[2], row[3 + num_patches] = IDS["audio_start"], IDS["audio_end"]
    row[3 : 3 + num_patches] = IDS["audio_patch"]
    return row


def _stages(model: StepAudio2ForCausalLM, mel: Tensor, lens: Tensor) -> dict[str, Tensor]:
    """Outputs inside encoder and adaptor, computed step by step."""
    encoder = model.encoder
    first = encoder.conv1(mel)
    second = encoder.conv2(torch.nn.functional.gelu(first))
    x = torch.nn.functional.gelu(second).transpose(1, 2)
    x = x + encoder.positional_embedding.weight[: x.shape[1]]
    mask = (torch.arange(x.shape[1]) < (lens[0] + mel.shape[-1] % 2) // 2)[None, None, None]
    stages = {"conv1_out": first[..., :16], "conv2_out": second}
    for index, block in enumerate(encoder.blocks):
        x = block(x, mask)
        if index == 0:
            stages["block0_out"] = x
    stages["block_last_out"] = x
    pooled = encoder.after_norm(
        torch.nn.functional.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)
    )
    stages["adapter_conv_out"] = model.adapter.get_submodule("conv")(pooled.transpose(1, 2))
    return stages
