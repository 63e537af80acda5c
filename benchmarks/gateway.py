"""What the realtime gateway adds to a bare echo over the same server library.

    python benchmarks/gateway.py --clients 64 --rounds 5 --seconds 10

Two servers run as processes of their own: the gateway with a model that does nothing, and an echo,
both under uvicorn with the settings of `stepaudio-serve`. So many clients send a frame of 20 ms
every 20 ms, each at its own moment, to one server and then to the other, round after round.

* idle: the model listens. Once a second every client asks for something that the gateway answers
  itself (`input_audio_buffer.clear`); the echo answers the same message and no frame.
* through: every frame comes back: as speech of the model, which says 20 ms for 20 ms that it
  hears, and as it was from the echo.

Timed is from just before a message is sent until its answer is received. On a busy machine waiting
for a core hides everything else; processor time for each frame says then what the gateway costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import uvloop
from fastapi import FastAPI
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect

from stepaudio.atomic import write_text_atomic
from stepaudio_streaming.bench.recordings import FRAME, FRAME_MS, append_event
from stepaudio_streaming.engine_api import EngineInfo
from stepaudio_streaming.events import (
    AppendAudio,
    Command,
    Configure,
    Event,
    OutputAudio,
    OutputStarted,
    PromptTokens,
    Respond,
)
from stepaudio_streaming.server.app import build_app
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_streaming.server.run import Address, build_server, listen, server_config

Mode = Literal["idle", "through"]
CLEAR = json.dumps({"type": "input_audio_buffer.clear"})
WARM_UP_S = 1.5
SHORT = 200  # bytes; frames are longer
CLEAR_EVERY = 1000 // FRAME_MS
SETUP = {
    "type": "session.update",
    "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}},
}


# ---- servers -----------------------------------------------------------------------------------


class IdleSession:
    """Hears everything; says as much, if it was asked for an answer."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue()
        self._response: str | None = None
        self._sound = np.full(FRAME, 0.1, np.float32)

    async def send(self, command: Command) -> None:
        """Take a command."""
        if isinstance(command, Respond):
            self._response = command.response_id
            self._waiting.put_nowait(OutputStarted(self._response, PromptTokens()))
        elif isinstance(command, AppendAudio) and self._response is not None:
            self._waiting.put_nowait(OutputAudio(self._response, self._sound))

    async def events(self) -> AsyncIterator[Event]:
        """What it says."""
        while (event := await self._waiting.get()) is not None:
            yield event

    async def close(self) -> None:
        """End."""
        self._waiting.put_nowait(None)


class IdleEngine:
    """A model that costs nothing."""

    info = EngineInfo(model="nano", voices=("none",))
    ready = True

    async def open_session(self, settings: Configure) -> IdleSession:
        """Begin a conversation."""
        return IdleSession()


def echo_app(mode: Mode) -> FastAPI:
    """Answers every message with itself; in the idle mode only the short ones."""
    app = FastAPI()

    @app.websocket("/v1/realtime")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                text = await websocket.receive_text()
                if mode == "through" or len(text) < SHORT:
                    await websocket.send_text(text)
        except WebSocketDisconnect:
            return

    return app


def serve(kind: str, mode: Mode, port: int) -> None:
    """Run one of the servers."""
    options, address = ServerOptions(max_sessions=1000), Address(port=port)
    listener = listen(address)
    if kind == "gateway":
        engine: Any = IdleEngine()
        build_server(build_app(engine, options), options, address).run(sockets=[listener])
    else:
        import uvicorn

        config = server_config(echo_app(mode), options, address)
        uvicorn.Server(config).run(sockets=[listener])


# ---- clients -----------------------------------------------------------------------------------


@dataclass
class Window:
    """When clients send.

    Attributes:
        connected: passed when all clients are connected.
        begin, end: on the steady clock.
        opened: both are known.
        over: all may leave.
    """

    connected: asyncio.Barrier
    begin: float = 0.0
    end: float = 0.0
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Client:
    """Sends frames, and times answers."""

    mode: Mode
    is_gateway: bool
    frame: str
    times: list[float] = field(default_factory=list)
    num_frames: int = 0
    _asked: deque[float] = field(default_factory=deque)

    async def run(self, url: str, phase: float, window: Window) -> None:
        """Connect, wait for the others, and send; only what is asked in the window is kept."""
        async with connect(
            url, compression=None, max_size=None, proxy=None, open_timeout=120
        ) as connection:
            if self.is_gateway:
                await self._prepare(connection)
            hearing = asyncio.create_task(self._hear(connection, window))
            await window.connected.wait()
            await window.opened.wait()
            due, number = window.begin + phase, 0
            while due < window.end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += FRAME_MS / 1000
                number += 1
                if self.mode == "through":
                    self._asked.append(time.monotonic())
                await connection.send(self.frame)
                if self.mode == "idle" and number % CLEAR_EVERY == 0:
                    self._asked.append(time.monotonic())
                    await connection.send(CLEAR)
            self.num_frames = number
            await window.over.wait()
            hearing.cancel()

    async def _prepare(self, connection: ClientConnection) -> None:
        await connection.send(json.dumps(SETUP))
        if self.mode == "through":
            await connection.send(json.dumps({"type": "response.create"}))
        wanted = "response.created" if self.mode == "through" else "session.updated"
        while json.loads(await connection.recv())["type"] != wanted:
            pass

    async def _hear(self, connection: ClientConnection, window: Window) -> None:
        # The type comes first in every event; nothing is decoded here.
        is_answer = "output_audio.delta" if self.mode == "through" else "buffer.cleared"
        while True:
            text = await connection.recv()
            now = time.monotonic()
            if self.is_gateway and is_answer not in str(text[:80]):
                continue
            asked = self._asked.popleft()
            if asked >= window.begin + WARM_UP_S:
                self.times.append(now - asked)


@dataclass(frozen=True)
class Round:
    """One round against one server: seconds of every answer, processor seconds for a frame."""

    times: list[float]
    cpu_s: float


async def measure(
    port: int, pid: int, mode: Mode, is_gateway: bool, args: argparse.Namespace
) -> Round:
    """Let all clients send for a while."""
    random = Random(args.seed)
    frame = append_event(np.sin(np.arange(FRAME) / 10).astype(np.float32) * 0.3)
    clients = [Client(mode, is_gateway, frame) for _ in range(args.clients)]
    window = Window(asyncio.Barrier(args.clients + 1))
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=nano"
    # The moments of the clients are spread over the time between two questions.
    spread_s = CLEAR_EVERY * FRAME_MS / 1000
    tasks = [
        asyncio.create_task(client.run(url, random.random() * spread_s, window))
        for client in clients
    ]
    await window.connected.wait()
    before = cpu_seconds(pid)
    window.begin = time.monotonic() + 0.1
    window.end = window.begin + WARM_UP_S + args.seconds
    window.opened.set()
    await asyncio.sleep(window.end - time.monotonic() + 0.5)
    spent = cpu_seconds(pid) - before
    window.over.set()
    await asyncio.gather(*tasks)
    num_frames = sum(client.num_frames for client in clients)
    times = [seconds for client in clients for seconds in client.times]
    if not times:
        raise SystemExit(
            f"{mode}: no answer came in time; the server had {spent / args.seconds:.2f} cores, "
            "which is too little: use a quiet machine or fewer --clients"
        )
    return Round(times, spent / num_frames)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def start(kind: str, mode: Mode) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, __file__, "--serve", kind, "--mode", mode, "--port", str(port)]
    process = subprocess.Popen(command)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"the {kind} did not start")


def compare(mode: Mode, args: argparse.Namespace) -> list[str]:
    """Interleaved rounds of both; rows of the table."""
    servers = {kind: start(kind, mode) for kind in ("echo", "gateway")}
    rounds: dict[str, list[Round]] = {kind: [] for kind in servers}
    try:
        for _ in range(args.rounds):
            for kind, (process, port) in servers.items():
                found = uvloop.run(measure(port, process.pid, mode, kind == "gateway", args))
                rounds[kind].append(found)
                print(mode, kind, *numbers(found), flush=True)
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait(60)
    rows = []
    for percent in (50, 95, 99):
        echo, gateway = (
            [1000 * float(np.percentile(r.times, percent)) for r in rounds[kind]]
            for kind in ("echo", "gateway")
        )
        ratio = float(np.median(np.asarray(gateway) / np.asarray(echo)))
        goal = " (goal ≤ 1.5)" if percent == 99 else ""
        rows.append(
            f"| {mode} | p{percent}, ms | {np.median(echo):.2f} | {np.median(gateway):.2f} "
            f"| {ratio:.2f}{goal} |"
        )
    echo, gateway = ([1e6 * r.cpu_s for r in rounds[kind]] for kind in ("echo", "gateway"))
    ratio = float(np.median(np.asarray(gateway) / np.asarray(echo)))
    rows.append(
        f"| {mode} | processor time for a frame, µs | {np.median(echo):.0f} "
        f"| {np.median(gateway):.0f} | {ratio:.2f} |"
    )
    return rows


def numbers(found: Round) -> list[str]:
    """A round in short."""
    percentiles = [f"p{p} {1000 * np.percentile(found.times, p):.2f} ms" for p in (50, 95, 99)]
    return [f"{len(found.times)} answers", *percentiles, f"{1e6 * found.cpu_s:.0f} µs a frame"]


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown")
    parser.add_argument("--mode", choices=("idle", "through"), help="only this one")
    parser.add_argument("--serve", choices=("echo", "gateway"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.mode, args.port)
    load = os.getloadavg()[0]
    modes: tuple[Mode, ...] = (args.mode,) if args.mode else ("idle", "through")
    rows = [row for mode in modes for row in compare(mode, args)]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    table = "\n".join(rows)
    text = f"""# Overhead of the realtime gateway

`python benchmarks/gateway.py --clients {args.clients} --rounds {args.rounds} --seconds \
{args.seconds:g}`, commit {commit}, {os.cpu_count()} cores, load average at the beginning
{load:.1f}. {args.clients} clients, a frame of 20 ms every 20 ms; gateway and bare echo under the
same uvicorn, interleaved rounds, medians over the rounds. `idle`: the model only listens, answers
of the gateway itself are timed. `through`: every frame comes back as speech.

| mode | what | echo | gateway | ratio |
|---|---|---|---|---|
{table}
"""
    print(text)
    if args.out is not None:
        write_text_atomic(args.out, text)


if __name__ == "__main__":
    main()
