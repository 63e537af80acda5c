"""Bounded queues between an event loop and the engine's thread; nobody polls."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from stepaudio.errors import StepAudioError

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """From the loop to the thread.

    Args:
        size: so many may wait.
        wake: wakes the thread.
    """

    def __init__(self, size: int, wake: Callable[[], None]) -> None:
        self._size = size
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_T] = deque()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._error: StepAudioError | None = None

    async def put(self, item: _T) -> None:
        """Give an item; waits while the queue is full.

        Raises:
            StepAudioError: the queue was closed.
        """
        while self._error is None and len(self._waiting) >= self._size:
            self._has_room.clear()
            # The thread may have taken something since; it looks at the flag behind its taking.
            if len(self._waiting) >= self._size:
                await self._has_room.wait()
        if self._error is not None:
            raise self._error
        self._waiting.append(item)
        self._wake()

    def get(self) -> _T | None:
        """Next item, None if there is none; for the thread."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        if not self._has_room.is_set():
            _call(self._loop, self._has_room.set)
        return item

    def close(self, error: StepAudioError) -> None:
        """Whoever gives something from now on gets an error; for the loop."""
        self._error = error
        self._waiting.clear()
        self._has_room.set()


class Outbox(Generic[_T]):
    """From the thread to the loop.

    Args:
        size: from so many on it counts as full; the thread then stops what fills it.
        wake: wakes the thread.
    """

    def __init__(self, size: int, wake: Callable[[], None]) -> None:
        self._size = size
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_T] = deque()
        self._has_items = asyncio.Event()
        self._lock = threading.Lock()
        self._is_closed = False
        self._error: StepAudioError | None = None

    @property
    def is_full(self) -> bool:
        """The reader is too slow."""
        return len(self._waiting) >= self._size

    def put(self, item: _T) -> None:
        """Add an item, also if it is full; for the thread."""
        with self._lock:
            was_empty = not self._waiting
            self._waiting.append(item)
        if was_empty:
            _call(self._loop, self._has_items.set)

    def fail(self, error: StepAudioError) -> None:
        """The reader gets this error behind what waits; for the thread."""
        self._error = error
        _call(self._loop, self._has_items.set)

    def close(self) -> None:
        """The reader gets nothing more; for the loop."""
        self._is_closed = True
        self._has_items.set()

    async def get(self) -> _T | None:
        """Next item; None: it was closed.

        Raises:
            StepAudioError: the thread has failed.
        """
        while not self._is_closed:
            with self._lock:
                was_full = self.is_full
                item = self._waiting.popleft() if self._waiting else None
                if not self._waiting:
                    self._has_items.clear()
            if item is not None:
                if was_full and not self.is_full:
                    self._wake()
                return item
            if self._error is not None:
                raise self._error
            await self._has_items.wait()
        return None


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # the loop has ended, and its readers with it
        return
