"""Runs the application with uvicorn: limits of the sockets, TLS, and an end that lets finish."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from stepaudio_streaming.server.gateway import Gateway
from stepaudio_streaming.server.options import ServerOptions

_MAX_FRAME = 24 << 20  # an append of 15 MiB is 21 MB of JSON


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen.

    Attributes:
        host: name or address.
        port: 0: any free one.
        certificate: file with the TLS certificate; None: no TLS.
        private_key: file with its key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    private_key: Path | None = None


_KEEPALIVE = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 5000}
_SEND_BUFFER = 256 << 10  # four seconds of speech: whoever is further behind is too slow


def listen(address: Address) -> socket.socket:
    """Open the listening socket; connections inherit its options.

    The kernel notices within five seconds that a client's machine is gone, however busy the
    client's program may be, and keeps little of what a slow client does not read.

    Raises:
        OSError: the address is taken or not of this machine.
    """
    listener = socket.create_server((address.host, address.port), backlog=2048)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # Linux has all of them, other systems some
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listener


class RealtimeServer(uvicorn.Server):
    """Server that lets answers finish before it ends; a second signal ends it at once.

    Args:
        config: of uvicorn.
        gateway: its sessions.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain the realtime sessions, then close the sockets."""
        if not self.force_exit:
            await self._gateway.drain()
        await super().shutdown(sockets)


def _is_news(record: logging.LogRecord) -> bool:
    """Uvicorn takes every refusal before the upgrade for an application that forgot to answer."""
    return not record.getMessage().startswith("ASGI callable returned without completing handshake")


def build_server(app: FastAPI, options: ServerOptions, address: Address) -> RealtimeServer:
    """Build a server for an application of `build_app`.

    Call its `run`, or await its `serve`, with `sockets=[listen(address)]`.
    """
    return RealtimeServer(server_config(app, options, address), app.state.gateway)


def server_config(app: FastAPI, options: ServerOptions, address: Address) -> uvicorn.Config:
    """Settings of uvicorn for an application with realtime sessions."""
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=_MAX_FRAME,
        ws_ping_interval=options.ping_interval_s,
        ws_ping_timeout=options.ping_timeout_s,
        # Base64 of sound does not get smaller, but costs time.
        ws_per_message_deflate=False,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.private_key,
        access_log=False,
        log_level="warning",
    )
