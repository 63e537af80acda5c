"""Checkpoints with real code and chosen weights: each token decides on the next one.

Without attention and feed-forward output, a token's hidden state is its own embedding; with one
embedding direction for each token of a script, the head can map every token to its successor.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stepaudio.models.checkpoint import save_checkpoint
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.text.tokenizer import TextTokenizer

WIDTH = 64
_LOGIT = 20.0


def with_tokens(definition: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """A tokenizer definition with further text tokens, in byte-level spelling."""
    changed = copy.deepcopy(dict(definition))
    vocabulary = changed["model"]["vocab"]
    new = [token for token in tokens if token not in vocabulary]
    vocabulary |= {token: len(vocabulary) + n for n, token in enumerate(new)}
    for entry in changed["added_tokens"]:
        entry["id"] += len(new)
    return changed


def scripted_checkpoint(
    folder: Path,
    definition: Mapping[str, Any],
    scripts: Sequence[Sequence[str]],
    **config: Any,
) -> Path:
    """Write a checkpoint that follows scripts.

    Args:
        folder: where to.
        definition: content of a ``tokenizer.json``.
        scripts: sequences of tokens; behind the first token of each the others follow. No token
            may have two successors.
        **config: further fields of the configuration.
    """
    known = {entry["content"] for entry in definition["added_tokens"]}
    texts = [token for script in scripts for token in script if token not in known]
    tokenizer = TextTokenizer(with_tokens(definition, texts))
    vocab = tokenizer.vocab
    values: dict[str, Any] = {
        "text_config": {
            "vocab_size": vocab.size,
            "hidden_size": WIDTH,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
            "max_position_embeddings": 2048,
            "eos_token_id": list(vocab.stop_ids),
            "pad_token_id": vocab.pad,
        }
        | config.pop("text", {}),
        "audio_encoder_config": {
            "n_mels": 80,
            "n_audio_ctx": 1500,
            "n_audio_state": 16,
            "n_audio_head": 2,
            "n_audio_layer": 1,
            "llm_dim": WIDTH,
            "kernel_size": 3,
            "adapter_stride": 2,
            "adapter_hidden": 16,
        },
        "audio_start_token_id": vocab.audio_start,
        "audio_patch_token_id": vocab.audio_patch,
    }
    torch.manual_seed(0)
    model = StepAudio2ForCausalLM(StepAudioConfig(**values, **config))
    ids = [[tokenizer.encode_special(token) for token in script] for script in scripts]
    _write_script(model, ids)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    save_checkpoint(model, folder)
    return folder


@torch.no_grad()
def _write_script(model: StepAudio2ForCausalLM, scripts: Sequence[Sequence[int]]) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
    model.model.embed_tokens.weight.zero_()
    model.lm_head.weight.zero_()
    directions: dict[int, int] = {}
    successors: dict[int, int] = {}
    for script in scripts:
        for token, following in itertools.pairwise(script):
            assert successors.setdefault(token, following) == following, "two successors"
            direction = directions.setdefault(token, len(directions))
            model.model.embed_tokens.weight[token, direction] = 1.0
            model.lm_head.weight[following, direction] = _LOGIT
