"""Rows that are read together."""

from itertools import combinations, pairwise

import pytest

from stepaudio.generation.grouping import group_by_length


def cost(groups, lens, pass_cost):
    return sum(pass_cost + len(group) * max(lens[i] for i in group) for group in groups)


def splits(rows):
    """All ways to cut a list into consecutive groups."""
    for count in range(len(rows)):
        for cuts in combinations(range(1, len(rows)), count):
            ends = (0, *cuts, len(rows))
            yield [rows[a:b] for a, b in pairwise(ends)]


@pytest.mark.parametrize("pass_cost", [0, 1, 25, 1000])
@pytest.mark.parametrize("lens", [[7], [5, 5, 5], [40, 65, 90, 115, 140], [300, 1, 2, 290, 3, 150]])
def test_no_other_split_costs_less(lens, pass_cost):
    groups = group_by_length(lens, pass_cost)
    assert sorted(row for group in groups for row in group) == list(range(len(lens)))
    by_length = sorted(range(len(lens)), key=lambda row: -lens[row])
    best = min(cost(split, lens, pass_cost) for split in splits(by_length))
    assert cost(groups, lens, pass_cost) == best


def test_passes_that_cost_much_are_few_and_cheap_ones_have_no_padding():
    lens = [9, 100, 50, 9]
    assert group_by_length(lens, 10_000) == [[1, 2, 0, 3]]
    assert group_by_length(lens, 1) == [[1], [2], [0, 3]]


def test_nothing_to_read():
    assert group_by_length([], 10) == []
