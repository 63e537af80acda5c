"""Chunk schedules and views against their definition, position by position."""

from itertools import chain, islice, pairwise, repeat

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.models.token2wav.chunks import ChunkSchedule, Spans, context_view, prompt_view

early = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
schedules = st.builds(ChunkSchedule, early, st.integers(1, 6), st.integers(0, 9))


def bounds(schedule: ChunkSchedule, position: int) -> tuple[int, int]:
    """Chunk of a position, by walking from the start."""
    sizes = chain(schedule.early, repeat(schedule.later))
    start, stop = 0, next(sizes)
    while position >= stop:
        start, stop = stop, stop + next(sizes)
    return start, stop


@settings(max_examples=25)
@given(schedule=schedules)
def test_chunks(schedule: ChunkSchedule) -> None:
    positions = torch.arange(40)
    expected = [bounds(schedule, n) for n in range(40)]
    starts, stops = schedule.bounds(positions)
    assert starts.tolist() == [start for start, _ in expected]
    assert stops.tolist() == [stop for _, stop in expected]
    assert all(schedule.size_from(start) == stop - start for start, stop in expected)
    assert schedule.longest == max(*schedule.early, schedule.later)
    begins = {start for start, _ in expected}
    for start in sorted(begins):
        for stop in range(start, 40):
            ends = [end for begin, end in expected if start <= begin and end <= stop]
            assert schedule.whole(start, stop) == max(ends, default=start) - start


@settings(max_examples=25)
@given(
    schedule=schedules,
    prompt_len=st.integers(0, 4),
    num_chunks=st.integers(0, 6),
    count=st.integers(1, 12),
)
def test_view(schedule: ChunkSchedule, prompt_len: int, num_chunks: int, count: int) -> None:
    start = sum(islice(chain(schedule.early, repeat(schedule.later)), num_chunks))
    prompt_size, size = 5, 13
    spans = Spans(torch.tensor([prompt_len]), torch.tensor([start]), torch.tensor([count]))
    view = context_view(schedule, spans, prompt_size, schedule.left, size)
    assert view.visible is not None
    for i in range(count):
        query = start + i
        begin, end = bounds(schedule, query)
        window = max(0, begin - schedule.left)
        expected = {}
        for p in range(prompt_len):
            # As if the prompt stood right before the window.
            expected[p] = query - (window - prompt_len + p)
        for key in range(max(0, start - schedule.left), start + count):
            if window <= key < end:
                expected[prompt_size + schedule.left + key - start] = query - key
        seen = view.visible[0, 0, i].nonzero().flatten().tolist()
        assert seen == sorted(expected)
        assert [int(view.distance[0, i, j]) for j in seen] == [expected[j] for j in seen]
        assert all(view.nearest <= d <= view.farthest for d in expected.values())
    assert bool(view.visible.any(-1).all())  # no softmax over nothing
    assert int(view.distance.min()) >= view.nearest
    assert int(view.distance.max()) <= view.farthest


@given(
    first=st.integers(1, 9),
    later=st.integers(1, 30),
    growth=st.one_of(st.just(0.0), st.floats(1.0, 3.0)),
)
def test_chunks_grow(first: int, later: int, growth: float) -> None:
    early = ChunkSchedule.growing(first, later, 0, growth).early
    assert early[0] == first
    sizes = [*early, later] if first < later else list(early)
    assert sizes == sorted(sizes)
    if growth:
        assert all(after <= max(size + 1, growth * size) for size, after in pairwise(sizes))
    else:
        assert early == (first,)


def test_distances_do_not_grow_with_the_position() -> None:
    schedule = ChunkSchedule((3,), 5, 6)
    ranges = set()
    for start in (0, 3, 3 + 5 * 10**6):
        spans = Spans(torch.tensor([4]), torch.tensor([start]), torch.tensor([5]))
        view = context_view(schedule, spans, 4, 6, 5)
        ranges.add((view.nearest, view.farthest))
    assert ranges == {(-4, 14)}


def test_prompts_see_themselves() -> None:
    view = prompt_view(torch.tensor([2, 0]), 3)
    assert view.visible is not None
    assert view.visible[0, 0].tolist() == [[True, True, False], [True, True, False], [True] * 3]
    assert view.visible[1, 0].tolist() == torch.eye(3).bool().tolist()
