import itertools
import threading
from contextlib import closing
from functools import partial

import pytest

from stepaudio.tasks.prefetch import prefetch

THREADS = [0, 1, 3]


def run(jobs, num_threads, **options):
    settings = {"ahead": 4, "depth": 2} | options
    return prefetch(jobs, num_threads=num_threads, **settings)


@pytest.mark.parametrize("num_threads", THREADS)
def test_jobs_and_items_keep_their_order(num_threads):
    jobs = [partial(range, size) for size in (3, 0, 20, 1)]
    assert [list(feed) for feed in run(jobs, num_threads)] == [
        list(range(n)) for n in (3, 0, 20, 1)
    ]


@pytest.mark.parametrize("num_threads", THREADS)
def test_error_comes_out_of_its_own_job(num_threads):
    def failing():
        yield 1
        raise OSError("disk on fire")

    with closing(run([partial(range, 1), failing, partial(range, 1)], num_threads)) as feeds:
        assert list(next(feeds)) == [0]
        broken = next(feeds)
        assert next(broken) == 1
        with pytest.raises(OSError, match="on fire"):
            next(broken)
        assert list(next(feeds)) == [0]


def test_jobs_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)

    def job():
        meeting.wait()
        yield 1

    assert [list(feed) for feed in run([job] * 3, 3)] == [[1]] * 3


def test_no_more_jobs_are_begun_and_items_kept_than_allowed():
    taken, made = [], []

    def jobs():
        for number in itertools.count():
            taken.append(number)
            yield partial(items, number)

    def items(number):
        for item in range(100):
            made.append(number)
            yield item

    with closing(run(jobs(), 2, ahead=3, depth=2)) as feeds:
        next(feeds)
        assert len(taken) == 4
    # Each thread holds the items that wait, and the one that it could not add.
    assert len(made) <= 2 * (2 + 1)


def test_closing_ends_the_threads():
    before = threading.active_count()

    def endless():
        yield from itertools.count()

    with closing(run([endless] * 4, 2)) as feeds:
        assert next(next(feeds)) == 0
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
