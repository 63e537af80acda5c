"""S3 tokenizer against names, shapes and numbers of the reference code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer, load_s3_tokenizer

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tokenizer(vectors: Path) -> S3Tokenizer:
    values = json.loads((vectors / "s3_config.json").read_text())
    del values["note"]
    return load_s3_tokenizer(vectors / "s3.safetensors", S3Config.from_dict(values))


@pytest.fixture(scope="module")
def reference(vectors: Path) -> dict[str, Tensor]:
    return load_file(vectors / "s3_vectors.safetensors")


def test_full_size_names_and_shapes() -> None:
    path = Path(__file__).parent.parent / "assets" / "s3_tokenizer_shapes.json"
    with torch.device("meta"):
        tokenizer = S3Tokenizer(S3Config())
    shapes = {name: list(tensor.shape) for name, tensor in tokenizer.state_dict().items()}
    assert shapes == json.loads(path.read_text())
    assert len(shapes) == 102
    assert tokenizer.codebook_size == 6561
    assert tokenizer.token_rate == 25


@torch.inference_mode()
def test_frames_and_projection(tokenizer: S3Tokenizer, reference: dict[str, Tensor]) -> None:
    frames, lens = tokenizer.encoder(reference["mel"], reference["mel_len"])
    assert lens.tolist() == reference["hidden_len"].tolist()
    projected = tokenizer.codebook.project_down(frames)
    for row, length in enumerate(lens.tolist()):
        for ours, name in ((frames, "hidden"), (projected, "project_down")):
            assert (ours - reference[name])[row, :length].abs().max() < TOLERANCE


def test_codes(tokenizer: S3Tokenizer, reference: dict[str, Tensor]) -> None:
    codes, lens = tokenizer.encode(reference["mel"], reference["mel_len"])
    assert lens.tolist() == reference["codes_len"].tolist()
    for row, length in enumerate(lens.tolist()):
        assert codes[row, :length].tolist() == reference["codes"][row, :length].tolist()
