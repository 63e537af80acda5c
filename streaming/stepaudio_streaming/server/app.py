"""The web application: realtime sessions, client secrets, models, health and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.websockets import WebSocket

from stepaudio.errors import RequestError
from stepaudio_streaming.engine_api import Engine
from stepaudio_streaming.protocol.aliases import (
    SPEECH_MODELS,
    TRANSCRIPTION_MODELS,
    TTS_MODELS,
    check_model,
)
from stepaudio_streaming.protocol.ids import random_id
from stepaudio_streaming.protocol.response_config import engine_settings
from stepaudio_streaming.protocol.secrets import DEFAULT_TTL_S, SecretRequest
from stepaudio_streaming.protocol.session_config import session_object, updated_config
from stepaudio_streaming.protocol.validation import validated
from stepaudio_streaming.server import errors
from stepaudio_streaming.server.auth import bearer_key
from stepaudio_streaming.server.body_limit import BodyLimit
from stepaudio_streaming.server.gateway import Gateway
from stepaudio_streaming.server.options import ServerOptions


def build_app(
    engine: Engine,
    options: ServerOptions,
    *,
    routers: Sequence[APIRouter] = (),
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Build the application.

    Args:
        engine: answers.
        options: limits and keys.
        routers: further endpoints below /v1, such as those of `stepaudio_streaming.http_api`; they
            need a key as the rest does.
        clock: seconds since 1970.
    """
    gateway = Gateway(engine, options, clock)
    app = FastAPI(title="stepaudio", version=version("stepaudio"))
    app.state.gateway = gateway
    errors.install_error_handlers(app)
    app.add_middleware(
        BodyLimit,
        max_upload_bytes=options.max_upload_bytes,
        max_json_bytes=options.max_json_bytes,
        requests=gateway.metrics.requests,
    )
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.include_router(_health_routes(gateway))
    needs_key = [Depends(_key_check(gateway))]
    app.include_router(_model_routes(gateway), prefix="/v1", dependencies=needs_key)
    needs_model = [*needs_key, Depends(_ready_check(gateway))]
    for router in (_secret_routes(gateway), *routers):
        app.include_router(router, prefix="/v1", dependencies=needs_model)

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await gateway.serve(websocket)

    return app


def _key_check(gateway: Gateway) -> Callable[[Request], None]:
    def check(request: Request) -> None:
        if not gateway.doorkeeper.accepts_key(bearer_key(request.headers)):
            raise HTTPException(401)

    return check


def _ready_check(gateway: Gateway) -> Callable[[], None]:
    def check() -> None:
        if not gateway.is_ready:
            raise HTTPException(503, "The server is starting or ending; try again soon.")

    return check


def _health_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The process lives."""
        return "ok"

    @router.get("/readyz", response_class=PlainTextResponse)
    async def readyz() -> PlainTextResponse:
        """The model is loaded and warm, and new sessions are welcome."""
        ready = gateway.is_ready
        return PlainTextResponse("ready" if ready else "not ready", 200 if ready else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Metrics for Prometheus."""
        media_type = "text/plain; version=0.0.4"
        return PlainTextResponse(gateway.metrics.text(), media_type=media_type)

    return router


def _model_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["models"])

    def model(name: str) -> dict[str, Any]:
        info = gateway.engine.info
        return {
            "id": name,
            "object": "model",
            "created": info.created,
            "owned_by": "stepaudio",
            # Beside OpenAI's fields, for clients that offer a choice.
            "voices": list(info.voices),
        }

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The served model, and the names of OpenAI's models under which it is served too."""
        names = [gateway.engine.info.model, *TRANSCRIPTION_MODELS]
        if gateway.engine.info.voices:
            names += [*SPEECH_MODELS, *TTS_MODELS]
        return {"object": "list", "data": [model(name) for name in names]}

    @router.get("/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """One model."""
        check_model(name, gateway.engine.info.model)
        return model(name)

    return router


def _secret_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["realtime"])

    @router.post("/realtime/client_secrets")
    async def client_secrets(request: Request) -> JSONResponse:
        """Mint a client secret: a short-lived key with which a browser may open sessions."""
        try:
            body = await request.json() if await request.body() else {}
        except (ValueError, RecursionError):
            raise RequestError("The body is no valid JSON.", code="invalid_json") from None
        fields = validated(SecretRequest, body, "body")
        info = gateway.engine.info
        config: Any = gateway.default_config(info.model)
        if fields.session is not None:
            config = updated_config(config, fields.session, served=info.model, voices=info.voices)
        engine_settings(config, info.voices)
        ttl_s = DEFAULT_TTL_S if fields.expires_after is None else fields.expires_after.seconds
        secret = gateway.secrets.mint(config, ttl_s)
        session = session_object(config, session_id=random_id("sess"))
        content = {"value": secret.value, "expires_at": secret.expires_at, "session": session}
        return JSONResponse(content, headers={"cache-control": "no-store"})

    return router
