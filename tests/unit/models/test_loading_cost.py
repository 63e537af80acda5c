"""Loading holds little more than the weights, and shows how far it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stepaudio.models.checkpoint import INDEX_FILE
from stepaudio.models.config_file import CONFIG_FILE
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.text.tokenizer import TextTokenizer

MAX_RATIO = 1.1
_VALUES: dict[str, Any] = {
    "text_config": {
        "vocab_size": 16_000,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 20,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 1024,
    },
    "audio_encoder_config": {
        "n_mels": 80,
        "n_audio_ctx": 100,
        "n_audio_state": 64,
        "n_audio_head": 2,
        "n_audio_layer": 1,
        "llm_dim": 1024,
        "kernel_size": 3,
        "adapter_stride": 2,
    },
}
# Prints the bytes of the weights and by how many bytes loading has raised the peak. The peak that
# getrusage tells counts what the parent held when it started this process; VmHWM does not.
_MEASURE = """
import re, sys, torch
from pathlib import Path
from stepaudio import StepAudio
import stepaudio.tasks.step_audio

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

torch.zeros(1).to(torch.bfloat16)
before = peak()
model = StepAudio.from_pretrained(
    sys.argv[1], device="cpu", dtype=torch.bfloat16, progress=True
).model
grown = peak() - before
print(sum(p.nbytes for p in model.parameters()), grown)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, definition: dict[str, Any]) -> Path:
    """About 0.65 GB of bfloat16 in two shards, like those of the public checkpoint."""
    folder = tmp_path_factory.mktemp("large")
    tokenizer = TextTokenizer(definition)
    tokenizer.save(folder)
    vocab = tokenizer.vocab
    ends = {"eos_token_id": list(vocab.stop_ids), "pad_token_id": vocab.pad}
    values = _VALUES | {
        "text_config": _VALUES["text_config"] | ends,
        "audio_start_token_id": vocab.audio_start,
        "audio_patch_token_id": vocab.audio_patch,
    }
    with torch.device("meta"):
        model = StepAudio2ForCausalLM(StepAudioConfig(**values))
    names = sorted(model.state_dict())
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        shapes = {name: model.state_dict()[name].shape for name in part}
        tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    (folder / CONFIG_FILE).write_text(json.dumps(values))
    return folder


def test_peak_memory_and_progress(large: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(large)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    weights, grown = map(int, done.stdout.split())
    assert weights > 600e6
    assert weights <= grown < MAX_RATIO * weights, f"{grown / weights:.3f}"
    assert "100%" in done.stderr
    assert large.name in done.stderr
