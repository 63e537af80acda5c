"""Carries realtime sessions of the page to a server; its key stays in this process."""

from __future__ import annotations

import asyncio
import time

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from stepaudio_streaming.protocol.secrets import ClientSecrets
from stepaudio_streaming.server.auth import Doorkeeper
from stepaudio_streaming.server.errors import not_ready, wrong_key
from stepaudio_webui.server_backend import ServerBackend

_OPEN_S = 10.0
_GONE = 1012  # close code "service restart": try again
_NORMAL = 1000


class RealtimeProxy:
    """Connects browsers with the server.

    Args:
        backend: the server.
    """

    def __init__(self, backend: ServerBackend) -> None:
        self._backend = backend
        # Pages of other origins must not talk with the key of this process.
        self._doorkeeper = Doorkeeper((), ClientSecrets(time.time))

    async def serve(self, websocket: WebSocket) -> None:
        """Carry one session until one side ends it."""
        if self._doorkeeper.admit(websocket.headers) is None:
            return await websocket.send_denial_response(wrong_key())
        query = websocket.url.query
        url = self._backend.realtime_url + (f"?{query}" if query else "")
        try:
            upstream = await connect(
                url,
                additional_headers=self._backend.headers,
                open_timeout=_OPEN_S,
                max_size=None,
                compression=None,
            )
        except (OSError, InvalidHandshake, TimeoutError) as error:
            response = not_ready(f"{self._backend.url} accepts no conversation ({error}).")
            return await websocket.send_denial_response(response)
        async with upstream:
            await websocket.accept()
            await _carry(websocket, upstream)


async def _carry(websocket: WebSocket, upstream: ClientConnection) -> None:
    tasks = [
        asyncio.create_task(_up(websocket, upstream)),
        asyncio.create_task(_down(websocket, upstream)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _up(websocket: WebSocket, upstream: ClientConnection) -> None:
    try:
        while True:
            await upstream.send(await websocket.receive_text())
    except (WebSocketDisconnect, ConnectionClosed, KeyError):
        return


async def _down(websocket: WebSocket, upstream: ClientConnection) -> None:
    try:
        async for message in upstream:
            await websocket.send_text(message if isinstance(message, str) else message.decode())
        code, reason = upstream.close_code, upstream.close_reason
    except ConnectionClosed as closed:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (_GONE, "")
    except (WebSocketDisconnect, RuntimeError, OSError):
        return
    await websocket.close(code or _NORMAL, reason or "")
