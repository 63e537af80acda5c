"""Joins page, conversations and sockets to one site."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from stepaudio.catalog import DEFAULT_MODEL
from stepaudio.errors import ConfigError
from stepaudio_streaming.memory import bound_kernel_caches, keep_memory_small
from stepaudio_streaming.server.gateway import Gateway
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_streaming.server.run import Address, RealtimeServer, listen, server_config
from stepaudio_webui.app import build_app, mount_app
from stepaudio_webui.backend import Backend
from stepaudio_webui.local_backend import LocalBackend
from stepaudio_webui.realtime_proxy import RealtimeProxy
from stepaudio_webui.server_backend import ServerBackend
from stepaudio_webui.theme import STATIC, STATIC_URL
from stepaudio_webui.voice_api import voice_routes

_log = logging.getLogger(__name__)

_FAREWELL_S = 1

ServeSession = Callable[[WebSocket], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """What the page shows, and where.

    Attributes:
        model: name, folder or Hub id.
        device: where it runs.
        server: address of a running server instead; None: the model is in this process.
        api_key: of that server.
        host: where to listen.
        port: 0: any free one.
        share: also over a public address of Gradio's.
        max_sessions: conversations at once.
        preferences: folder for decisions between takes; None: among the user's own data.
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    server: str | None = None
    api_key: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    max_sessions: int = 8
    preferences: Path | None = None


def build_site(
    backend: Backend, serve_session: ServeSession, *, preferences: Path | None = None
) -> FastAPI:
    """Build the site: the page, its conversations, and what its scripts ask for.

    Args:
        backend: the model behind it.
        serve_session: serves one realtime session.
        preferences: see `WebOptions`.
    """
    site = FastAPI(title="stepaudio-webui", docs_url=None, redoc_url=None, openapi_url=None)

    @site.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await serve_session(websocket)

    site.include_router(voice_routes(backend))
    site.mount(STATIC_URL, StaticFiles(directory=STATIC))
    mount_app(site, build_app(backend, preferences))
    return site


def serve(options: WebOptions) -> None:
    """Show the page until a signal comes.

    Raises:
        ConfigError: the address of the server is none.
        OSError: the port is taken.
    """
    bound_kernel_caches()
    address = Address(host=options.host, port=options.port)
    listener = listen(address)
    try:
        asyncio.run(_serve(options, address, listener))
    finally:
        listener.close()


async def _serve(options: WebOptions, address: Address, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    _log.info("open http://%s:%d in a browser", host, port)
    if options.share:
        _log.info("public address: %s", await asyncio.to_thread(_share, port))
    if options.server is not None:
        remote = ServerBackend(options.server, options.api_key)
        proxy = RealtimeProxy(remote)
        site = build_site(remote, proxy.serve, preferences=options.preferences)
        config = page_config(site, ServerOptions(), address)
        return await uvicorn.Server(config).serve(sockets=[listener])
    local = LocalBackend(options.model, device=options.device, max_sessions=options.max_sessions)
    server = local_server(
        local, address, max_sessions=options.max_sessions, preferences=options.preferences
    )
    local.start()
    housekeeping = asyncio.create_task(keep_memory_small())
    try:
        await server.serve(sockets=[listener])
    finally:
        housekeeping.cancel()
        local.stop()


def local_server(
    backend: LocalBackend,
    address: Address,
    *,
    max_sessions: int = 8,
    preferences: Path | None = None,
) -> RealtimeServer:
    """Server of a page over a model of this process; await its `serve`."""
    limits = ServerOptions(max_sessions=max_sessions)
    gateway = Gateway(backend.engine, limits)
    config = page_config(
        build_site(backend, gateway.serve, preferences=preferences), limits, address
    )
    return RealtimeServer(config, gateway)


def page_config(site: FastAPI, limits: ServerOptions, address: Address) -> uvicorn.Config:
    """Settings of uvicorn for a page."""
    config = server_config(site, limits, address)
    # Pages that are open keep connections of Gradio's, which never end by themselves.
    config.timeout_graceful_shutdown = _FAREWELL_S
    logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)
    return config


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Not that connections were cut because the page ends, with a traceback for each."""
    kind = record.exc_info[0] if record.exc_info else None
    is_cut = kind is not None and issubclass(kind, asyncio.CancelledError)
    return not is_cut and "graceful shutdown exceeded" not in record.getMessage()


def _share(port: int) -> str:
    """Public address of the page, by Gradio's tunnel.

    Raises:
        ConfigError: there is none, for lack of a network most of the time.
    """
    from gradio.networking import setup_tunnel

    try:
        return setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # Gradio's tunnel raises many kinds
        raise ConfigError(
            f"--share: no public address ({error}); the page works without --share"
        ) from error
