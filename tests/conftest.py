"""Fixtures that all tests share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from stepaudio.models.step_audio import StepAudio2ForCausalLM

# The same examples in every run, however slow the machine is.
hypothesis.settings.register_profile("stepaudio", deadline=None, derandomize=True)
hypothesis.settings.load_profile("stepaudio")

_LONG_FILES = ("webui", "cli", "streaming")  # folders

TESTS = Path(__file__).parent
ASSETS = TESTS / "assets"
EXAMPLES = TESTS.parent / "examples" / "audio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all processes are busy to the end.

    Those of browsers, which mostly wait, take turns with those of commands, which reckon.
    """
    files: dict[str, dict[Path, int]] = {folder: {} for folder in _LONG_FILES}

    def rank(item: pytest.Item) -> tuple[float, int]:
        folder = item.path.relative_to(TESTS).parts[0] if TESTS in item.path.parents else ""
        if folder not in files:
            return math.inf, 0
        turn = files[folder].setdefault(item.path, len(files[folder]))
        return turn, _LONG_FILES.index(folder)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Reference numbers, computed with the reference code and tiny random weights."""
    return ASSETS / "vectors"


@pytest.fixture(scope="session")
def examples() -> Path:
    """Real recordings that ship with the repository."""
    return EXAMPLES


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


# A model of every part that nano has, with few numbers. <audio_start> is 200, <audio_patch> 202.
_TINY_TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 0,
    # large enough that greedy choices are not ties
    "initializer_range": 0.2,
}
_TINY_AUDIO: dict[str, Any] = {
    "n_mels": 80,
    "n_audio_ctx": 0,
    "n_audio_state": 32,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "llm_dim": 64,
    "kernel_size": 1,
    "adapter_stride": 1,
    "chunk_frames": 64,
    "left_context": 256,
    "mel_floor": "fixed",
    "conv_strides": (2, 2),
    "pool_layer": 1,
    "conv_kernel": 9,
    "position": "rotary",
    "adapter_type": "linear",
    "ctc_tokens": " 'abc",
}


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., StepAudio2ForCausalLM]:
    """Build a small random model; keyword arguments change text fields."""
    from stepaudio.models.hf_config import StepAudioConfig
    from stepaudio.models.step_audio import StepAudio2ForCausalLM

    def build(*, tied: bool = True, seed: int = 0, **text: Any) -> StepAudio2ForCausalLM:
        torch.manual_seed(seed)
        config = StepAudioConfig(
            text_config=_TINY_TEXT | text,
            audio_encoder_config=_TINY_AUDIO,
            tie_word_embeddings=tied,
            audio_start_token_id=200,
            audio_patch_token_id=202,
        )
        return StepAudio2ForCausalLM(config).eval()

    return build
