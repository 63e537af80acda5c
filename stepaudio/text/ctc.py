"""Characters of the CTC head: text to targets, frame posteriors to text."""

from __future__ import annotations

from collections.abc import Sequence

BLANK = 0


def ctc_targets(text: str, tokens: str) -> list[int]:
    """Target ids of a text, from 1; characters that the head does not know are left out."""
    index = {token: i + 1 for i, token in enumerate(tokens)}
    return [index[c] for c in text if c in index]


def collapse(frame_ids: Sequence[int], tokens: str) -> str:
    """Text of the best path: repeats merged, blanks removed."""
    previous = BLANK
    characters = []
    for current in frame_ids:
        if current not in (previous, BLANK):
            characters.append(tokens[current - 1])
        previous = current
    return "".join(characters).strip()
