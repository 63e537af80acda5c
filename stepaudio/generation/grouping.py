"""Which rows of a ragged batch are read in one pass."""

from __future__ import annotations

from collections.abc import Sequence


def group_by_length(lens: Sequence[int], pass_cost: int) -> list[list[int]]:
    """Split rows into groups that are padded to their longest, at the least cost.

    Args:
        lens: tokens of every row.
        pass_cost: what a pass costs besides its tokens, in tokens.

    Returns:
        Indices of the rows of each group, longest first; the sum of padded tokens and of the
        passes' own costs is as small as it can be.
    """
    order = sorted(range(len(lens)), key=lambda row: -lens[row])
    # cost[n]: of the n longest rows; start[n]: where the last of their groups begins.
    cost, start = [0] * (len(order) + 1), [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        cost[end], start[end] = min(
            (cost[first] + lens[order[first]] * (end - first) + pass_cost, first)
            for first in range(end)
        )
    groups, end = [], len(order)
    while end:
        groups.append(order[start[end] : end])
        end = start[end]
    return groups[::-1]
