"""Verification of the flow: it passes, reads every number, and notices altered ones."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stepaudio.tasks.verify.flow import FLOW
from stepaudio.tasks.verify.runner import verify


@pytest.fixture
def folder(vectors: Path, tmp_path: Path) -> Path:
    for path in vectors.glob("flow*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def test_flow(folder: Path) -> None:
    report = verify(folder, (FLOW,))
    assert report.passed, report
    assert len(report.components[0].checks) == 27
    altered = {
        "flow_offline": ("encoder_out", "mel"),
        "flow_stream": ("chunk3_mel", "chunk2_est_att_len", "cache0_estimator_cnn_shape"),
    }
    for file, names in altered.items():
        path = folder / f"{file}.safetensors"
        original = load_file(path)
        wrong = {name: original[name].clone() for name in names}
        for tensor in wrong.values():
            tensor.flatten()[-1].add_(1)
        save_file(original | wrong, path)
    failed = {
        check.tensor for check in verify(folder, (FLOW,)).components[0].checks if not check.passed
    }
    assert failed == {f"{file}/{name}" for file, names in altered.items() for name in names}


def test_missing_weights_are_named(folder: Path) -> None:
    path = folder / "flow.safetensors"
    weights = load_file(path)
    del weights["encoder_proj.bias"]
    save_file(weights, path)
    assert "encoder_proj.bias" in str(verify(folder, (FLOW,)).components[0].problem)
