"""What a verification compares, and how its results are recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepaudio.tasks.verify.vectors import VectorFolder

QUIET_DECADES = 6.0
QUIET_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Check:
    """Comparison of one tensor with the reference.

    Attributes:
        tensor: file and name, such as "main_single/logits".
        error: largest absolute difference, or the number of differing ids; infinite if the shapes
            differ.
        tolerance: largest error that passes; 0 where values must be identical.
    """

    tensor: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Component:
    """A part of the toolkit that can be compared with reference numbers.

    Attributes:
        name: what reports call it.
        run: reads the folder and yields its comparisons. A StepAudioError, ValueError or
            RuntimeError means that the component could not run.
    """

    name: str
    run: Callable[[VectorFolder], Iterator[Check]]


@dataclass(frozen=True)
class ComponentReport:
    """Result of one component.

    Attributes:
        name: the component.
        checks: its comparisons, in the order in which they ran.
        problem: why it could not run to its end, or None.
    """

    name: str
    checks: tuple[Check, ...]
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it ran, compared something, and all of that fits."""
        return (
            self.problem is None
            and bool(self.checks)
            and all(check.passed for check in self.checks)
        )


@dataclass(frozen=True)
class VerifyReport:
    """Result of a verification.

    Attributes:
        folder: where the reference numbers are.
        components: one report for every component, whether or not it could run.
        unchecked: tensors and files of the folder that no component has read.
    """

    folder: str
    components: tuple[ComponentReport, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every component passed and nothing in the folder was left out."""
        return (
            bool(self.components)
            and not self.unchecked
            and all(component.passed for component in self.components)
        )


def compare(name: str, ours: Tensor, reference: Tensor, tolerance: float) -> Check:
    """Compare numbers.

    Args:
        name: file and name of the reference.
        ours: any shape, any device.
        reference: the same shape.
        tolerance: largest absolute difference that passes.
    """
    if ours.shape != reference.shape:
        return Check(name, math.inf, tolerance)
    if not reference.numel():
        return Check(name, 0.0, tolerance)
    difference = ours.detach().to("cpu").double() - reference.double()
    return Check(name, float(difference.abs().max()), tolerance)


def compare_spectrum(
    name: str,
    ours: Tensor,
    reference: Tensor,
    tolerance: float,
    *,
    decades: Tensor,
    decades_per_unit: float,
) -> Iterator[Check]:
    """Compare logarithms of band powers; bands that rounding drowns have a row of their own.

    The FFT of float32 rounds to about 1e-7 of a frame's loudest amplitude, in another way on
    every kind of processor: the reference numbers come from one with AVX-512. In a band six
    decades of power below the loudest, that is 1e-5 of a mel unit behind the logarithm, and ever
    more in quieter ones. Those bands are compared as amplitudes relative to their frame's loudest.

    Args:
        name: file and name of the reference.
        ours: any shape.
        reference: the same shape.
        tolerance: largest difference that passes in all but the quiet bands.
        decades: how many decades of power each value lies below the loudest of its frame.
        decades_per_unit: decades of power that a difference of 1 means.
    """
    if ours.shape != reference.shape:
        yield compare(name, ours, reference, tolerance)
        return
    quiet = decades > QUIET_DECADES
    yield compare(name, ours[~quiet], reference[~quiet], tolerance)
    if bool(quiet.any()):
        amplitude = torch.pow(10.0, -decades[quiet].double() / 2)
        growth = (ours[quiet] - reference[quiet]).double() * decades_per_unit / 2
        changed = amplitude * torch.pow(10.0, growth)
        yield compare(f"{name} (quiet bands, amplitude)", changed, amplitude, QUIET_TOLERANCE)


def identical(name: str, ours: Sequence[int] | Tensor, reference: Sequence[int] | Tensor) -> Check:
    """Compare ids or lengths; the error is the number of those that differ."""
    left, right = _integers(ours), _integers(reference)
    if len(left) != len(right):
        return Check(name, math.inf, 0.0)
    return Check(name, float(sum(a != b for a, b in zip(left, right, strict=True))), 0.0)


def _integers(values: Sequence[int] | Tensor) -> list[int]:
    flat = values.flatten().tolist() if isinstance(values, Tensor) else values
    return [int(value) for value in flat]
