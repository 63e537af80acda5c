"""The engine behind `stepaudio_streaming.engine_api`: one thread owns the model."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from stepaudio.errors import CapacityError, StepAudioError
from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.mailbox import Inbox, Outbox
from stepaudio_streaming.engine.onset import OnsetWatch
from stepaudio_streaming.engine.parts import Runner
from stepaudio_streaming.engine.session import Say
from stepaudio_streaming.engine_api import EngineInfo
from stepaudio_streaming.events import AppendAudio, Command, Configure, Event, OutputHeld

_log = logging.getLogger(__name__)

_INBOX = 32  # commands that wait for the engine; the audio of each is at most a second
_OUTBOX = 128  # events that wait for the gateway
_COMMANDS_A_STEP = 8  # of one session, so that one that sends much does not hold up the others


@dataclass(frozen=True)
class Loaded:
    """An engine that can begin: its core, and what it serves."""

    core: EngineCore
    info: EngineInfo


class StreamingSession:
    """One conversation; see `EngineSession`. All methods belong to the loop that opened it.

    Args:
        number: its name.
        engine: what it belongs to.
        settings: at the beginning.
    """

    def __init__(self, number: int, engine: StreamingEngine, settings: Configure) -> None:
        self._engine = engine
        self._watch = OnsetWatch(settings)
        self.number = number
        self.heard_until = 0.0  # on the engine's clock; written by the thread
        self.inbox: Inbox[Command | Say] = Inbox(_INBOX, engine.wake)
        self.outbox: Outbox[Event] = Outbox(_OUTBOX, engine.wake)
        self.is_blocked = False
        self._is_closed = False

    async def send(self, command: Command | Say) -> None:
        """Give a command; see the protocol.

        Speech of the user is noticed here, beside the engine's thread: whoever interrupts must not
        wait for a step that is being made.
        """
        if isinstance(command, Configure):
            self._watch.configure(command)
        elif isinstance(command, AppendAudio):
            speaks = self._engine.now() < self.heard_until
            command, onset = await self._engine.listen(self._watch, command, speaks)
            if onset is not None:
                self.outbox.put(onset)
        await self.inbox.put(command)

    async def events(self) -> AsyncIterator[Event]:
        """Everything that happens; see the protocol."""
        while (event := await self.outbox.get()) is not None:
            yield event

    async def close(self) -> None:
        """Free the slot; see the protocol."""
        if self._is_closed:
            return
        self._is_closed = True
        self.inbox.close(StepAudioError("the session is closed"))
        self.outbox.close()
        self._engine.forget(self.number)


class StreamingEngine:
    """Runs the model for all sessions.

    Args:
        load: loads and warms everything; called in the engine's thread.
        name: of the model, before it is loaded.
        clock: seconds of a steady clock.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        name: str = "nano",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._info = EngineInfo(model=name, voices=())
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = False
        self._orders: dict[int, tuple[StreamingSession, Configure, Future[None]]] = {}
        self._leaving: set[int] = set()
        self._lock = threading.Lock()
        self._numbers = count()
        self._sessions: dict[int, StreamingSession] = {}  # of the thread
        self._loaded: Future[None] = Future()
        self._runner: Runner | None = None
        self._ears = ThreadPoolExecutor(1, thread_name_prefix="stepaudio-ear")
        self._thread = threading.Thread(target=self._run, name="stepaudio-engine", daemon=True)

    # ---- for the loop ------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        """What it serves."""
        return self._info

    @property
    def ready(self) -> bool:
        """The model is loaded and warm."""
        return self._thread.is_alive() and self._loaded.done() and not self._stopping

    def start(self) -> Future[None]:
        """Begin to load; the result says when the engine is ready, or what is wrong."""
        # Whoever stops waiting for it does not stop the thread.
        self._loaded.set_running_or_notify_cancel()
        self._thread.start()
        return self._loaded

    async def open_session(self, settings: Configure) -> StreamingSession:
        """Begin a conversation; see the protocol."""
        if not self.ready:
            raise CapacityError("the engine is not ready")
        session = StreamingSession(next(self._numbers), self, settings)
        opened: Future[None] = Future()
        with self._lock:
            self._orders[session.number] = session, settings, opened
        self.wake()
        try:
            await asyncio.wrap_future(opened)
        except asyncio.CancelledError:
            self.forget(session.number)
            raise
        return session

    def forget(self, number: int) -> None:
        """A session is over."""
        with self._lock:
            self._orders.pop(number, None)
            self._leaving.add(number)
        self.wake()

    def now(self) -> float:
        """Time of the engine's clock."""
        return self._clock()

    async def listen(
        self, watch: OnsetWatch, command: AppendAudio, speaks: bool
    ) -> tuple[AppendAudio, OutputHeld | None]:
        """Find out what of a session's sound is speech, in the thread of the detector."""
        runner = self._runner
        if runner is None or self._stopping:
            return command, None
        if not watch.detects:
            return watch.hear(runner, command, speaks)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._ears, watch.hear, runner, command, speaks)

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; sessions that are open fail. Waits for the step that is being made."""
        self._stopping = True
        self._ears.shutdown(wait=False, cancel_futures=True)
        self.wake()
        if self._thread.is_alive():
            self._thread.join()

    # ---- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            loaded = self._load()
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._info = loaded.info
        self._runner = loaded.core.runner
        self._loaded.set_result(None)
        while not self._stopping:
            # Before looking for work: what comes later sets it again.
            self._wake.clear()
            self._come_and_go(loaded.core)
            is_busy = self._take_commands(loaded.core)
            plan = loaded.core.step(self._clock())
            if not is_busy and plan.is_empty:
                delay_s = None if plan.wake_at is None else plan.wake_at - self._clock()
                self._wake.wait(None if delay_s is None else max(0.0, delay_s))
        self._end(loaded.core)

    def _come_and_go(self, core: EngineCore) -> None:
        with self._lock:
            orders, self._orders = self._orders, {}
            leaving, self._leaving = self._leaving, set()
        for number in leaving:
            self._sessions.pop(number, None)
            core.close(number)
        for number, (session, settings, opened) in orders.items():
            if not opened.set_running_or_notify_cancel():
                continue
            try:
                core.open(number, settings, session.outbox.put)
            except StepAudioError as error:
                opened.set_exception(error)
                continue
            self._sessions[number] = session
            opened.set_result(None)

    def _take_commands(self, core: EngineCore) -> bool:
        """Obey every session's commands; whether some may be left."""
        is_busy = False
        for number, session in list(self._sessions.items()):
            if session.outbox.is_full != session.is_blocked:
                session.is_blocked = not session.is_blocked
                core.block(number, session.is_blocked)
            for _ in range(_COMMANDS_A_STEP):
                if session.outbox.is_full or not core.takes_commands(number):
                    break
                command = session.inbox.get()
                if command is None:
                    break
                self._obey(core, session, command)
            else:
                is_busy = True
            session.heard_until = core.heard_until(number)
        return is_busy

    def _obey(self, core: EngineCore, session: StreamingSession, command: Command | Say) -> None:
        """The one place that catches everything: an error ends this session and no other."""
        try:
            core.obey(session.number, command, self._clock())
        except Exception as error:
            _log.exception("session %d failed", session.number)
            core.close(session.number)
            self._sessions.pop(session.number, None)
            shown = str(error) if isinstance(error, StepAudioError) else "internal error"
            session.outbox.fail(StepAudioError(f"the session has failed: {shown}"))

    def _end(self, core: EngineCore) -> None:
        for number, session in list(self._sessions.items()):
            core.close(number)
            session.outbox.fail(StepAudioError("the engine has ended"))
        self._sessions.clear()
        with self._lock:
            for _, _, opened in self._orders.values():
                opened.cancel()
