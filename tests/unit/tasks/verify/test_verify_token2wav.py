"""Verification of S3 tokenizer and vocoder: it passes, and notices every altered number."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stepaudio.tasks.verify.checks import Component
from stepaudio.tasks.verify.hift import HIFT
from stepaudio.tasks.verify.runner import verify
from stepaudio.tasks.verify.s3_tokenizer import S3_TOKENIZER

PARTS = (("s3", S3_TOKENIZER), ("hift", HIFT))


@pytest.mark.parametrize(("prefix", "component"), PARTS)
def test_every_altered_tensor_is_found(
    vectors: Path, tmp_path: Path, prefix: str, component: Component
) -> None:
    for path in vectors.glob(f"{prefix}*"):
        shutil.copy(path, tmp_path / path.name)
    assert verify(tmp_path, (component,)).passed
    path = tmp_path / f"{prefix}_vectors.safetensors"
    original = load_file(path)
    for name, tensor in original.items():
        altered = tensor.clone()
        altered.flatten()[tensor.numel() // 2].add_(0.05 if tensor.is_floating_point() else 5)
        save_file(original | {name: altered}, path)
        assert not verify(tmp_path, (component,)).passed, name


@pytest.mark.parametrize(("prefix", "component"), PARTS)
def test_altered_weights_are_found(
    vectors: Path, tmp_path: Path, prefix: str, component: Component
) -> None:
    for path in vectors.glob(f"{prefix}*"):
        shutil.copy(path, tmp_path / path.name)
    path = tmp_path / f"{prefix}.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 0.05}, path)
    assert not verify(tmp_path, (component,)).passed
    del weights[name]
    save_file(weights, path)
    assert name in str(verify(tmp_path, (component,)).components[0].problem)
