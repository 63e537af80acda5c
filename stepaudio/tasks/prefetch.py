"""Read ahead in threads: what the next jobs yield is ready when its turn comes."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")
_POLL_S = 0.1  # how soon a thread that waits for room notices that nobody wants its items
_JOIN_S = 2.0  # how long all threads together may take to end


@dataclass(frozen=True)
class _End:
    """Last item of a job, with the error that ended it."""

    error: BaseException | None = None


class _Feed(Generic[_T]):
    """Items of one job, which a thread puts in and the consumer takes out."""

    def __init__(self, job: Callable[[], Iterable[_T]], depth: int, stop: threading.Event) -> None:
        self._job = job
        self._stop = stop
        self._items: queue.Queue[_T | _End] = queue.Queue(depth)

    def fill(self) -> None:
        """Run the job; every error goes to the consumer."""
        end = _End()
        try:
            for item in self._job():
                if not self._put(item):
                    return
        except BaseException as error:
            end = _End(error)
        self._put(end)

    def _put(self, item: _T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[_T]:
        while not isinstance(item := self._items.get(), _End):
            yield item
        if item.error is not None:
            raise item.error


def prefetch(
    jobs: Iterable[Callable[[], Iterable[_T]]], *, num_threads: int, ahead: int, depth: int
) -> Generator[Iterator[_T], None, None]:
    """Run jobs in threads, ahead of their consumer; jobs and items keep their order.

    Closing the iterator ends the threads; a job that is blocked is left behind.

    Args:
        jobs: what to run, taken one by one; each yields the items of one iterator. An error that
            a job raises comes out of its iterator.
        num_threads: jobs that run at the same time; 0: everything runs when it is asked for.
        ahead: jobs that may be begun or finished before their turn.
        depth: items of one job that may wait.

    Yields:
        One iterator for every job; exhaust each before asking for the next.
    """
    if num_threads == 0:
        for job in jobs:
            yield iter(job())
        return
    stop = threading.Event()
    begun: queue.SimpleQueue[_Feed[_T] | None] = queue.SimpleQueue()
    waiting: deque[_Feed[_T]] = deque()

    def work() -> None:
        while (feed := begun.get()) is not None and not stop.is_set():
            feed.fill()

    # Daemons, because a thread that waits for a pipe must not keep the program alive.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_threads)]
    try:
        for thread in threads:
            thread.start()
        for job in jobs:
            feed = _Feed(job, depth, stop)
            begun.put(feed)
            waiting.append(feed)
            if len(waiting) > ahead:
                yield iter(waiting.popleft())
        while waiting:
            yield iter(waiting.popleft())
    finally:
        stop.set()
        for _ in threads:
            begun.put(None)
        deadline = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
