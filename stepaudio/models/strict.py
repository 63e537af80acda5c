"""Strict comparison of stored tensors with those that a model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MAX_LISTED = 50


def tensor_mismatches(
    wanted: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]]
) -> str:
    """List the missing, surplus and misshaped tensors in one line; empty where all fit.

    Args:
        wanted: shape of every tensor of the model, by name.
        stored: shape of every tensor of the file, by name.
    """
    problems = {
        "missing": [f"{k} {list(wanted[k])}" for k in wanted if k not in stored],
        "surplus": [f"{k} {list(stored[k])}" for k in sorted(stored) if k not in wanted],
        "wrong shape": [
            f"{k} {list(stored[k])}, expected {list(wanted[k])}"
            for k in sorted(wanted.keys() & stored.keys())
            if list(stored[k]) != list(wanted[k])
        ],
    }
    parts = []
    for kind, names in problems.items():
        if names:
            more = f"; and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            parts.append(f"{kind} ({len(names)}): " + "; ".join(names[:_MAX_LISTED]) + more)
    return ". ".join(parts)
