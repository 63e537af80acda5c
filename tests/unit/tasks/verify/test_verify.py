"""`verify` passes for right numbers only, whatever is missing, altered or left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepaudio.errors import CheckpointError
from stepaudio.tasks.verify import Check, Component, VerifyReport, verify
from stepaudio.tasks.verify.checks import compare, compare_spectrum, identical
from stepaudio.tasks.verify.encoder import ADAPTOR, ENCODER
from stepaudio.tasks.verify.llm import GREEDY, LLM
from stepaudio.tasks.verify.mel import MEL
from stepaudio.tasks.verify.prompt_features import PROMPT_FEATURES
from stepaudio.tasks.verify.vectors import VectorFolder

MAIN = (MEL, PROMPT_FEATURES, ENCODER, ADAPTOR, LLM, GREEDY)


def run(folder: Path) -> VerifyReport:
    return verify(folder, MAIN)


def failed(report: VerifyReport) -> set[str]:
    return {component.name for component in report.components if not component.passed}


def altered(tensor: Tensor, name: str) -> Tensor:
    """A copy with one other value."""
    copy = tensor.clone()
    middle = copy.flatten()[copy.numel() // 2]
    if name == "attention_mask":
        middle.neg_().add_(1)
    else:
        middle.add_(0.05 if copy.is_floating_point() else 5)
    return copy


def test_reference_numbers_pass(main_folder: Path) -> None:
    report = run(main_folder)
    assert report.passed
    assert report.unchecked == ()
    assert [component.name for component in report.components] == [c.name for c in MAIN]
    errors = {check.tensor: check for part in report.components for check in part.checks}
    assert errors["mel_3s_128"].tolerance == 1e-5
    assert errors["main_single/logits"].tolerance == 1e-4
    assert errors["main_greedy/greedy_ids"].tolerance == 0


def test_other_weights_inputs_and_dimensions_pass(other_folder: Path) -> None:
    report = run(other_folder)
    assert [check for part in report.components for check in part.checks if not check.passed] == []
    assert report.passed


@pytest.mark.parametrize(
    ("file", "readers"),
    [
        ("main_single", (ENCODER, ADAPTOR, LLM)),
        ("main_batch", (ENCODER, ADAPTOR, LLM)),
        ("main_greedy", (GREEDY,)),
        ("mel_extra", (MEL,)),
        ("prompt_features", (PROMPT_FEATURES,)),
    ],
)
def test_every_altered_tensor_is_found(
    other_folder: Path, file: str, readers: tuple[Component, ...]
) -> None:
    path = other_folder / f"{file}.safetensors"
    original = load_file(path)
    assert all(part.passed for part in verify(other_folder, readers).components)
    for name, tensor in original.items():
        save_file(original | {name: altered(tensor, name)}, path)
        report = verify(other_folder, readers)
        assert not all(part.passed for part in report.components), name


@pytest.mark.parametrize("file", ["mel_3s_128.npy", "wav_3s_16k.npy"])
def test_altered_arrays_are_found(main_folder: Path, file: str) -> None:
    values = np.load(main_folder / file)
    np.save(main_folder / file, altered(torch.from_numpy(values), file).numpy())
    assert failed(run(main_folder)) == {"mel"}


def test_altered_weights_are_found(main_folder: Path) -> None:
    path = main_folder / "model.safetensors"
    weights = load_file(path)
    for name in ("encoder.conv1.bias", "adapter.linear2.bias", "model.norm.weight"):
        save_file(weights | {name: weights[name] + 0.01}, path)
        assert "llm" in failed(run(main_folder)), name
    del weights["model.norm.weight"]
    save_file(weights, path)
    report = run(main_folder)
    assert failed(report) == {"encoder", "adaptor", "llm", "greedy"}
    assert all("model.norm.weight" in str(part.problem) for part in report.components[2:])


def test_every_missing_file_is_named(main_folder: Path) -> None:
    for path in sorted(main_folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        report = run(main_folder)
        assert not report.passed
        problems = [str(part.problem) for part in report.components if part.problem]
        assert problems and all(path.name in problem for problem in problems), path.name
        path.write_bytes(content[: len(content) // 2])
        report = run(main_folder)
        assert any(path.stem in str(part.problem) for part in report.components), path.name
        path.write_bytes(content)
    assert run(main_folder).passed


def test_a_component_that_is_not_there_leaves_tensors_unchecked(main_folder: Path) -> None:
    report = verify(main_folder, tuple(part for part in MAIN if part is not GREEDY))
    assert all(part.passed for part in report.components)
    assert set(report.unchecked) == {
        f"main_greedy/{name}" for name in ("greedy_ids", "input_ids", "last_logits")
    }
    assert not report.passed
    assert not verify(main_folder, ()).passed


def test_an_unknown_tensor_is_unchecked(main_folder: Path) -> None:
    save_file({"surprise": torch.zeros(2)}, main_folder / "more.safetensors")
    assert run(main_folder).unchecked == ("more/surprise",)


def test_a_component_that_compares_nothing_fails(main_folder: Path) -> None:
    def nothing(vectors: VectorFolder) -> Iterator[Check]:
        vectors.values("config")
        return iter(())

    report = verify(main_folder, (Component("lazy", nothing),))
    assert report.components[0].problem == "it compared nothing"
    assert not report.components[0].passed


def test_a_failing_component_does_not_stop_the_others(main_folder: Path) -> None:
    def broken(vectors: VectorFolder) -> Iterator[Check]:
        yield identical("first", [1], [1])
        raise RuntimeError("shapes do not fit")

    report = verify(main_folder, (Component("broken", broken), MEL))
    assert "shapes do not fit" in str(report.components[0].problem)
    assert report.components[1].passed


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        verify(tmp_path / "nothing")


def test_comparisons() -> None:
    assert compare("x", torch.ones(2), torch.ones(3), 1.0).error == math.inf
    assert not compare("x", torch.tensor([math.nan, 0.0]), torch.zeros(2), 1.0).passed
    assert not compare("x", torch.zeros(2), torch.tensor([math.nan, 0.0]), 1.0).passed
    assert compare("x", torch.zeros(0), torch.zeros(0), 0.0).passed
    assert identical("x", [1, 2, 3], torch.tensor([[1, 5, 3]])).error == 1
    assert not identical("x", [1, 2], [1, 2, 3]).passed


def test_quiet_bands_may_differ_as_far_as_float32_rounds() -> None:
    reference = torch.tensor([[1.0, 1.0], [-0.6, 0.0]])  # 6.4 and 4 decades below the loudest
    ours = reference + torch.tensor([[0.0, 0.0], [2e-5, 0.0]])

    def checks(ours: Tensor) -> list[Check]:
        decades = 4 * (reference.amax(0) - reference)
        return list(
            compare_spectrum("mel", ours, reference, 1e-5, decades=decades, decades_per_unit=4.0)
        )

    assert [check.passed for check in checks(ours)] == [True, True]
    assert [check.passed for check in checks(ours + 1e-4)] == [False, False]
    ours[1, 1] += 2e-5
    assert [check.passed for check in checks(ours)] == [False, True]
