"""``stepaudio verify``."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from stepaudio.cli.console import accept_any_text, echo, report
from stepaudio.tasks.verify import VerifyReport, verify

_MAX_LISTED = 5


def run_verify(args: argparse.Namespace) -> int:
    """Compare every component with reference numbers; returns the exit status.

    Raises:
        CheckpointError: there is no folder with reference numbers.
    """
    accept_any_text()
    result = verify(args.vectors)
    echo(json.dumps(as_json(result)) + "\n" if args.json else as_text(result))
    for problem in problems(result):
        report(problem)
    return 0 if result.passed else 1


def as_json(result: VerifyReport) -> dict[str, Any]:
    """One object with an entry for every component and tensor; an infinite error is null."""
    return {
        "vectors": result.folder,
        "passed": result.passed,
        "components": [
            {
                "name": component.name,
                "passed": component.passed,
                "problem": component.problem,
                "tensors": [
                    {
                        "tensor": check.tensor,
                        "max_abs_error": check.error if math.isfinite(check.error) else None,
                        "tolerance": check.tolerance,
                        "passed": check.passed,
                    }
                    for check in component.checks
                ],
            }
            for component in result.components
        ],
        "unchecked": list(result.unchecked),
    }


def as_text(result: VerifyReport) -> str:
    """One line for every tensor."""
    rows = [
        (component.name, check) for component in result.components for check in component.checks
    ]
    widths = [max((len(name) for name, _ in rows), default=0)]
    widths += [max((len(check.tensor) for _, check in rows), default=0)]
    lines = [
        f"{'pass' if check.passed else 'FAIL'}  {name:{widths[0]}}  {check.tensor:{widths[1]}}  "
        f"max abs error {check.error:8.1e}  tolerance {check.tolerance:.0e}"
        for name, check in rows
    ]
    num_passed = sum(check.passed for _, check in rows)
    verdict = "pass" if result.passed else "FAIL"
    lines.append(
        f"{verdict}  {num_passed} of {len(rows)} tensors, "
        f"{sum(c.passed for c in result.components)} of {len(result.components)} components"
    )
    return "\n".join(lines) + "\n"


def problems(result: VerifyReport) -> list[str]:
    """What did not pass, one line each."""
    lines = []
    for component in result.components:
        lines += [
            f"{component.name}: {check.tensor} differs by {check.error:.1e}, "
            f"allowed is {check.tolerance:.0e}"
            for check in component.checks
            if not check.passed
        ]
        if component.problem is not None:
            lines.append(f"{component.name}: did not run: {component.problem}")
    if result.unchecked:
        lines.append(f"no component has checked {_by_file(result.unchecked)} in {result.folder}")
    return lines


def _by_file(names: Sequence[str]) -> str:
    """Files with their tensors; of a file with many only their number."""
    files: dict[str, list[str]] = {}
    for name in names:
        file, _, tensor = name.partition("/")
        files.setdefault(file, []).append(tensor)
    parts = []
    for file, tensors in files.items():
        listed = ", ".join(tensors) if len(tensors) <= _MAX_LISTED else f"{len(tensors)} tensors"
        parts.append(f"{file} ({listed})" if any(tensors) else file)
    return "; ".join(parts)
