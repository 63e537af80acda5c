"""Run every component against a folder of reference numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import stepaudio
from stepaudio.errors import CheckpointError, StepAudioError
from stepaudio.tasks.verify.checks import Check, Component, ComponentReport, VerifyReport
from stepaudio.tasks.verify.components import COMPONENTS
from stepaudio.tasks.verify.vectors import VectorFolder

_CHECKOUT_VECTORS = Path("tests") / "assets" / "vectors"


def verify(
    folder: str | Path | None = None, components: Sequence[Component] = COMPONENTS
) -> VerifyReport:
    """Compare components with the numbers of a folder.

    Everything in the folder must be used by a component: a tensor that none has read is reported,
    so that a component that is missing here cannot go unnoticed.

    Args:
        folder: reference numbers (specification, section 13), with any weights, inputs and
            dimensions. None: those of the source checkout that this package runs from.
        components: what to run.

    Raises:
        CheckpointError: there is no such folder.
    """
    vectors = VectorFolder(_default_folder() if folder is None else folder)
    reports = tuple(_run(component, vectors) for component in components)
    return VerifyReport(str(vectors.path), reports, tuple(vectors.unread()))


def _run(component: Component, vectors: VectorFolder) -> ComponentReport:
    checks: list[Check] = []
    try:
        checks.extend(component.run(vectors))
    except (StepAudioError, ValueError, RuntimeError, KeyError, IndexError) as error:
        kind = "" if isinstance(error, StepAudioError) else f"{type(error).__name__}: "
        return ComponentReport(component.name, tuple(checks), f"{kind}{error}")
    if not checks:
        return ComponentReport(component.name, (), "it compared nothing")
    return ComponentReport(component.name, tuple(checks))


def _default_folder() -> Path:
    folder = Path(stepaudio.__file__).parents[1] / _CHECKOUT_VECTORS
    if not folder.is_dir():
        raise CheckpointError(
            "an installed package has no reference numbers with it: give a folder with "
            f"--vectors DIR, such as {_CHECKOUT_VECTORS} of the source repository"
        )
    return folder
