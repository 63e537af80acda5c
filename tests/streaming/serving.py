"""A real server on a loopback socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from websockets.sync.client import ClientConnection, connect

from stepaudio_streaming.server.app import build_app
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_streaming.server.run import Address, RealtimeServer, build_server, listen
from tests.streaming.scripted_engine import ScriptedEngine

TIMEOUT_S = 20.0  # only a test that fails waits so long


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    port: int
    server: RealtimeServer
    engine: ScriptedEngine
    thread: threading.Thread

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/realtime"

    def connect(self, query: str = "?model=nano", **how: Any) -> ClientConnection:
        """A bare client; the messages that it gets are large."""
        return connect(self.ws + query, max_size=None, **how)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()


@contextmanager
def serving(
    engine: ScriptedEngine | None = None,
    *,
    routers: Sequence[APIRouter] = (),
    certificate: tuple[Path, Path] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """Run a server as long as the block."""
    engine = engine or ScriptedEngine()
    cert, key = certificate or (None, None)
    address = Address(port=0, certificate=cert, private_key=key)
    listener = listen(address)
    port = listener.getsockname()[1]
    chosen = ServerOptions(**options)
    started: list[RealtimeServer] = []
    has_started = threading.Event()

    async def main() -> None:
        app = build_app(engine, chosen, routers=routers)
        started.append(build_server(app, chosen, address))
        has_started.set()
        await started[0].serve(sockets=[listener])

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert has_started.wait(TIMEOUT_S)
    running = Running(port, started[0], engine, thread)
    try:
        yield running
    finally:
        if thread.is_alive():
            running.stop()


def receive(client: ClientConnection) -> dict[str, Any]:
    """Next event."""
    event: dict[str, Any] = json.loads(client.recv(TIMEOUT_S))
    return event


def receive_until(client: ClientConnection, *kinds: str) -> list[dict[str, Any]]:
    """Events up to the first of one of these types."""
    events = [receive(client)]
    while events[-1]["type"] not in kinds:
        events.append(receive(client))
    return events


def send(client: ClientConnection, kind: str, **fields: Any) -> None:
    """Send an event."""
    client.send(json.dumps({"type": kind, **fields}))
