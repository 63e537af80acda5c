"""Messages that wait for a client: bounded, and cleared of speech that must not be heard."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

_AUDIO = "response.output_audio.delta"


class Outgoing:
    """Queue between a session and its socket.

    Args:
        max_bytes: no more may wait.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[str, str | None]] = deque()
        self._num_bytes = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    @property
    def is_overfull(self) -> bool:
        """The client is too slow."""
        return self._num_bytes > self._max_bytes

    def put(self, messages: Iterable[dict[str, Any]]) -> None:
        """Add messages."""
        for message in messages:
            text = json.dumps(message, separators=(",", ":"))
            speech = message["response_id"] if message["type"] == _AUDIO else None
            self._waiting.append((text, speech))
            self._num_bytes += len(text)
        if self._waiting:
            self._filled.set()
            self._emptied.clear()

    def silence(self, response_ids: Collection[str]) -> None:
        """Take out the speech of responses that were stopped."""
        if not response_ids or not self._waiting:
            return
        self._waiting = deque(entry for entry in self._waiting if entry[1] not in response_ids)
        self._num_bytes = sum(len(text) for text, _ in self._waiting)

    async def get(self) -> tuple[str, bool]:
        """Next message, and whether it is speech; asking says that those before were sent."""
        while not self._waiting:
            self._filled.clear()
            self._emptied.set()
            await self._filled.wait()
        text, speech = self._waiting.popleft()
        self._num_bytes -= len(text)
        return text, speech is not None

    async def drained(self) -> None:
        """Wait until everything was sent."""
        await self._emptied.wait()
