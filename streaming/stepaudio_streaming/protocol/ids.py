"""Ids of sessions, items, responses and events."""

from __future__ import annotations

import secrets
from collections.abc import Callable

NewId = Callable[[str], str]
"""Makes an id that was never used before, with the given prefix such as "item"."""


def random_id(prefix: str) -> str:
    """Id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(12)}"


def counted_ids() -> NewId:
    """Ids that count up, for reproducible sessions."""
    counts: dict[str, int] = {}

    def next_id(prefix: str) -> str:
        counts[prefix] = counts.get(prefix, 0) + 1
        return f"{prefix}_{counts[prefix]:04}"

    return next_id
