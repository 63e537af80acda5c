"""One WebSocket: frames to the session, its events to the engine and back, within limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine_api import EngineSession
from stepaudio_streaming.events import Command
from stepaudio_streaming.protocol.outbox import Outbox
from stepaudio_streaming.protocol.realtime import RealtimeSession
from stepaudio_streaming.server.interruptions import InterruptionWatch
from stepaudio_streaming.server.metrics import Metrics
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_streaming.server.outgoing import Outgoing

_log = logging.getLogger(__name__)

# Decoding more than this takes so long that other sessions would wait for it.
_LARGE_FRAME = 256 << 10

_WATCHES = 10  # in the time that sending a message may take
_HOPELESS_S = 0.1  # for telling a client that takes nothing that it is over

CLOSE_GOING_AWAY = 1001
CLOSE_POLICY = 1008
CLOSE_INTERNAL = 1011
CLOSE_TRY_AGAIN = 1013


class _End(Exception):
    """The session is over.

    Attributes:
        code: close code; None: the client has gone.
        reason: for client and metrics.
    """

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Connection:
    """Runs one session over one accepted WebSocket.

    Args:
        websocket: accepted.
        session: the protocol.
        engine: the session's side of the engine.
        options: limits.
        metrics: of the server.
    """

    def __init__(
        self,
        websocket: WebSocket,
        session: RealtimeSession,
        engine: EngineSession,
        options: ServerOptions,
        metrics: Metrics,
    ) -> None:
        self._websocket = websocket
        self._session = session
        self._engine = engine
        self._options = options
        self._metrics = metrics
        self._outgoing = Outgoing(options.max_outgoing_bytes)
        self._commands: deque[Command] = deque()
        self._commands_filled = asyncio.Event()
        self._commands_low = asyncio.Event()
        self._commands_low.set()
        self._lock = asyncio.Lock()  # held while a thread decodes a frame for the session
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None  # of the timer
        self._sending_since: float | None = None
        self._end: asyncio.Future[_End] = asyncio.get_running_loop().create_future()
        self._is_leaving = False
        self._created_at: dict[str, float] = {}  # responses without audio yet
        self._interruptions = InterruptionWatch(metrics.barge_in)

    def leave(self, *, at_once: bool) -> None:
        """The server ends: so does the session, now or behind the current response."""
        self._is_leaving = True
        if at_once or not self._session.is_busy:
            self._finish(_End(CLOSE_GOING_AWAY, "the server is shutting down"))

    async def run(self) -> None:
        """Serve the client until one side ends it; the engine's slot is free afterwards."""
        loop = asyncio.get_running_loop()
        lifetime = loop.call_later(self._options.max_session_s, self._expire)
        parts = self._read(), self._listen(), self._forward(), self._write(), self._watch()
        tasks = [asyncio.create_task(self._guard(part)) for part in parts]
        try:
            self._deliver(self._session.open())
            end = await self._end
            # The slot first: telling a client that does not listen takes time.
            await self._engine.close()
            await self._say_goodbye(end)
        finally:
            lifetime.cancel()
            if self._timer is not None:
                self._timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._engine.close()
        self._metrics.sessions.add(label=end.reason)

    # ---- tasks -------------------------------------------------------------------------------

    async def _guard(self, part: Coroutine[Any, Any, None]) -> None:
        """The one place that catches everything: an error ends this session and no other."""
        try:
            await part
        except _End as end:
            self._finish(end)
        except (WebSocketDisconnect, OSError):
            self._finish(_End(None, "the client has gone"))
        except StepAudioError as error:
            _log.error("session %s: the engine failed: %s", self._session.id, error)
            self._fail(str(error))
        except Exception:
            _log.exception("session %s: internal error", self._session.id)
            self._fail("The server had an error; the session ends.")

    async def _read(self) -> None:
        """Frames of the client."""
        while True:
            if not self._commands_low.is_set():
                await self._commands_low.wait()
            frame = await self._websocket.receive()
            if frame["type"] == "websocket.disconnect":
                raise _End(None, "the client has gone")
            text, arrived_at = frame.get("text"), time.monotonic()
            if text is None:
                message = "Binary frames are not supported: send events as JSON text."
                out = self._session.complain(message, code="invalid_frame")
            elif len(text) > _LARGE_FRAME:
                async with self._lock:
                    out = await asyncio.to_thread(self._session.receive, text, arrived_at)
            else:
                out = self._session.receive(text, arrived_at)
            self._interruptions.appended(self._session.clock_ms, arrived_at)
            self._deliver(out)

    async def _listen(self) -> None:
        """Events of the engine."""
        async for event in self._engine.events():
            while self._lock.locked():
                async with self._lock:
                    pass
            self._deliver(self._session.hear(event, time.monotonic()))
            self._interruptions.hear(event)
            if self._is_leaving and not self._session.is_busy:
                raise _End(CLOSE_GOING_AWAY, "the server is shutting down")
        raise _End(CLOSE_INTERNAL, "the engine has ended the session")

    async def _forward(self) -> None:
        """Commands to the engine."""
        while True:
            while not self._commands:
                self._commands_filled.clear()
                await self._commands_filled.wait()
            await self._engine.send(self._commands.popleft())
            if len(self._commands) <= self._options.max_waiting_commands // 2:
                self._commands_low.set()

    async def _write(self) -> None:
        """Messages to the client."""
        while True:
            text, is_speech = await self._outgoing.get()
            self._sending_since = time.monotonic()
            await self._websocket.send_text(text)
            self._sending_since = None
            if is_speech:
                self._interruptions.sent(time.monotonic())

    async def _watch(self) -> None:
        """Whether the client takes what it is sent; a timeout of every message would cost more."""
        limit_s = self._options.send_timeout_s
        while True:
            since = self._sending_since
            left_s = limit_s if since is None else since + limit_s - time.monotonic()
            if left_s <= 0:
                raise _End(CLOSE_POLICY, "the client is too slow")
            await asyncio.sleep(min(left_s, limit_s / _WATCHES))

    # ---- between the tasks -------------------------------------------------------------------

    def _deliver(self, out: Outbox) -> None:
        self._outgoing.silence(out.silenced)
        if out.messages:
            self._outgoing.put(out.messages)
            if self._outgoing.is_overfull:
                self._finish(_End(CLOSE_POLICY, "the client is too slow"))
            self._count(out)
        if out.commands:
            self._commands.extend(out.commands)
            self._commands_filled.set()
            if len(self._commands) > self._options.max_waiting_commands:
                self._commands_low.clear()
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self._session.deadline()
        if deadline == self._deadline:
            return
        self._deadline = deadline
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            delay_s = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._deadline = None
        # A frame that is being decoded sets the timer anew when it is done.
        if not self._lock.locked() and not self._end.done():
            self._deliver(self._session.tick(time.monotonic()))

    def _expire(self) -> None:
        message = "Your session hit the maximum duration and ends."
        if not self._lock.locked():
            self._deliver(self._session.complain(message, code="session_expired"))
        self._finish(_End(CLOSE_GOING_AWAY, "the session has expired"))

    def _fail(self, message: str) -> None:
        if not self._lock.locked():
            self._deliver(self._session.complain(message, code="server_error", kind="server_error"))
        self._finish(_End(CLOSE_INTERNAL, "the engine failed"))

    def _finish(self, end: _End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    async def _say_goodbye(self, end: _End) -> None:
        """Send what waits, and why it is over; not to a client that takes nothing."""
        if end.code is None:
            return
        listens = end.code != CLOSE_POLICY
        try:
            async with asyncio.timeout(self._options.send_timeout_s if listens else _HOPELESS_S):
                if listens:
                    await self._outgoing.drained()
                await self._websocket.close(end.code, end.reason)
        except (TimeoutError, RuntimeError, OSError):
            _log.debug("session %s: the client could not be told", self._session.id)

    def _count(self, out: Outbox) -> None:
        for message in out.messages:
            kind = message["type"]
            if kind == "response.output_audio.delta":
                self._metrics.audio_out.add(len(message["delta"]) * 3 // 4)
                created = self._created_at.pop(message["response_id"], None)
                if created is not None:
                    self._metrics.first_audio.observe(time.monotonic() - created)
            elif kind == "response.created":
                self._created_at[message["response"]["id"]] = time.monotonic()
            elif kind == "response.done":
                self._created_at.pop(message["response"]["id"], None)
                self._metrics.responses.add(label=message["response"]["status"])
            elif kind == "error":
                self._metrics.errors.add(label=message["error"]["code"] or "none")
