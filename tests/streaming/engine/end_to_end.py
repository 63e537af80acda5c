"""Small checkpoints of the public shape: bidirectional encoder, interleaved speech, token2wav."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stepaudio.models.checkpoint import save_checkpoint
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.models.token2wav.folder import save_parts
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import audio_token_names
from tests.scripted import scripted_checkpoint
from tests.unit.conftest import tokenizer_definition
from tests.unit.models.token2wav.parts import CODEBOOK, small_parts

PUBLIC_STREAMING = {"mode": "reference", "chunk_tokens": 10, "left_context_tokens": 6}
_AUDIO = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "llm_dim": 64,
    "kernel_size": 3,
    "adapter_stride": 2,
    "adapter_hidden": 16,
}


def definition() -> dict[str, Any]:
    """Tokenizer with as many audio tokens as the small detokenizer speaks."""
    whole = copy.deepcopy(tokenizer_definition(adds_space=False))
    spoken = set(audio_token_names(CODEBOOK))
    whole["added_tokens"] = [
        token
        for token in whole["added_tokens"]
        if not token["content"].startswith("<audio_")
        or token["content"] in spoken
        or not token["content"][7:-1].isdigit()
    ]
    return whole


def random_checkpoint(folder: Path, **config: Any) -> Path:
    """Write a checkpoint whose answers are noise, but depend on everything that was heard."""
    tokenizer = TextTokenizer(definition())
    vocab = tokenizer.vocab
    torch.manual_seed(0)
    model = StepAudio2ForCausalLM(
        StepAudioConfig(
            text_config={
                "vocab_size": vocab.size,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e4,
                "max_position_embeddings": 2048,
                "eos_token_id": list(vocab.stop_ids),
                "pad_token_id": vocab.pad,
                "initializer_range": 0.2,
            },
            audio_encoder_config=_AUDIO,
            audio_start_token_id=vocab.audio_start,
            audio_patch_token_id=vocab.audio_patch,
            tie_word_embeddings=False,
            **config,
        )
    )
    with torch.no_grad():
        # Answers are as long as they may be, and their groups are full.
        model.lm_head.weight[[*vocab.stop_ids, vocab.tts_end, vocab.audio_pad]] = 0.0
        for name, parameter in model.named_parameters():
            if name.startswith(("encoder", "adapter")) and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    save_checkpoint(model, folder)
    save_parts(folder / "token2wav", small_parts(streaming=PUBLIC_STREAMING))
    return folder


def speaking_script(folder: Path, scripts: Sequence[Sequence[str]], **config: Any) -> Path:
    """Write a checkpoint that answers everything by a script, in sound."""
    scripted_checkpoint(folder, definition(), scripts, **config)
    save_parts(folder / "token2wav", small_parts(streaming=PUBLIC_STREAMING))
    return folder


def spoken_script(words: Sequence[str], *behind: str, first_code: int = 0) -> tuple[str, ...]:
    """Script of a spoken answer: every word with four codes of its own, then what follows it."""
    script = ["<tts_start>"]
    for index, word in enumerate(words):
        code = first_code + 4 * index
        script += [word, *(f"<audio_{code + place}>" for place in range(4))]
    return (*script, "<tts_end>", *behind, "<|EOT|>")


def loaded(folder: Path) -> StepAudio:
    return StepAudio.from_pretrained(folder, device="cpu")
