"""All realtime sessions of a server: who comes in, how many, and how they end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from stepaudio.errors import CapacityError, RequestError, StepAudioError
from stepaudio_streaming.engine_api import Engine
from stepaudio_streaming.protocol.aliases import check_model
from stepaudio_streaming.protocol.realtime import RealtimeSession, SessionOptions
from stepaudio_streaming.protocol.secrets import ClientSecrets
from stepaudio_streaming.protocol.session_config import (
    RealtimeConfig,
    SessionConfig,
    default_config,
)
from stepaudio_streaming.server import errors
from stepaudio_streaming.server.auth import (
    SUBPROTOCOL,
    Doorkeeper,
    Visitor,
    offered_subprotocols,
)
from stepaudio_streaming.server.connection import CLOSE_TRY_AGAIN, Connection
from stepaudio_streaming.server.metrics import Metrics
from stepaudio_streaming.server.options import ServerOptions

_log = logging.getLogger(__name__)


class Gateway:
    """Admits clients and runs their sessions.

    Args:
        engine: answers.
        options: limits and keys.
        clock: seconds since 1970.

    Attributes:
        engine: answers.
        options: limits and keys.
        secrets: client secrets.
        doorkeeper: checks keys.
        metrics: of the server.
    """

    def __init__(
        self, engine: Engine, options: ServerOptions, clock: Callable[[], float] = time.time
    ) -> None:
        self.engine = engine
        self.options = options
        self.secrets = ClientSecrets(clock)
        self.doorkeeper = Doorkeeper(options.api_keys, self.secrets, options.cors_origins)
        self.metrics = Metrics(lambda: float(len(self._connections) + self._num_opening))
        self._clock = clock
        self._connections: set[Connection] = set()
        self._num_opening = 0
        self._is_draining = False
        self._is_empty = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """New sessions are welcome."""
        return self.engine.ready and not self._is_draining

    async def serve(self, websocket: WebSocket) -> None:
        """Admit a client and run its session; whoever is refused learns why before the upgrade."""
        try:
            await self._admit(websocket)
        except (WebSocketDisconnect, OSError):
            _log.debug("a client has gone before its session began")

    async def _admit(self, websocket: WebSocket) -> None:
        visitor = self.doorkeeper.admit(websocket.headers)
        if visitor is None:
            return await self._refuse(websocket, errors.wrong_key(), "key")
        if not self.is_ready:
            response = errors.not_ready("The server is starting or ending; try again soon.")
            return await self._turn_away(websocket, response, "not ready")
        try:
            config = self._config(websocket, visitor)
            session = RealtimeSession(config, self._session_options())
        except RequestError as error:
            return await self._refuse(websocket, errors.refused(error), "request")
        if len(self._connections) + self._num_opening >= self.options.max_sessions:
            response = errors.busy("All sessions are taken; try again soon.")
            return await self._turn_away(websocket, response, "full")
        await self._run(websocket, session)

    async def drain(self) -> None:
        """End: no new sessions; answers that are being made may go on for a while."""
        self._is_draining = True
        for connection in list(self._connections):
            connection.leave(at_once=False)
        try:
            await asyncio.wait_for(self._emptied(), self.options.drain_timeout_s)
        except TimeoutError:
            for connection in list(self._connections):
                connection.leave(at_once=True)

    async def _emptied(self) -> None:
        while self._connections:
            self._is_empty.clear()
            await self._is_empty.wait()

    async def _run(self, websocket: WebSocket, session: RealtimeSession) -> None:
        self._num_opening += 1
        try:
            engine_session = await self.engine.open_session(session.settings)
        except CapacityError as error:
            return await self._turn_away(websocket, errors.busy(str(error)), "full")
        except StepAudioError as error:
            return await self._refuse(websocket, errors.not_ready(str(error)), "engine")
        finally:
            self._num_opening -= 1
        try:
            offered = offered_subprotocols(websocket.headers)
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            connection = Connection(websocket, session, engine_session, self.options, self.metrics)
            self._connections.add(connection)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)
                if not self._connections:
                    self._is_empty.set()
        finally:
            await engine_session.close()

    async def _turn_away(self, websocket: WebSocket, response: JSONResponse, reason: str) -> None:
        """Refuse for now. Pages cannot see why an upgrade was refused: they get a close code."""
        if "origin" not in websocket.headers:
            return await self._refuse(websocket, response, reason)
        self.metrics.refusals.add(label=reason)
        offered = offered_subprotocols(websocket.headers)
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        shown = {"full": "All sessions are taken; try again soon."}
        await websocket.close(CLOSE_TRY_AGAIN, shown.get(reason, "The server is not ready."))

    async def _refuse(self, websocket: WebSocket, response: JSONResponse, reason: str) -> None:
        self.metrics.refusals.add(label=reason)
        await websocket.send_denial_response(response)

    def _session_options(self) -> SessionOptions:
        info = self.engine.info
        return SessionOptions(
            served=info.model,
            voices=info.voices,
            expires_at=int(self._clock() + self.options.max_session_s),
        )

    def _config(self, websocket: WebSocket, visitor: Visitor) -> SessionConfig:
        """Session that the address asks for.

        Raises:
            RequestError: its parameters are wrong, or there is no such model.
        """
        query, info = websocket.query_params, self.engine.info
        given = [name for name in ("model", "intent", "call_id") if query.get(name)]
        if "call_id" in given:
            raise RequestError(
                "Calls over WebRTC or SIP are not served.", code="invalid_value", param="call_id"
            )
        if len(given) > 1:
            raise RequestError(
                "Give either 'model' or 'intent', not both.", code="invalid_value", param="intent"
            )
        model = query.get("model")
        if model:
            check_model(model, info.model)
        if visitor.config is not None:
            return visitor.config
        if query.get("intent"):
            return self._intended(query["intent"])
        return self.default_config(model or info.model)

    def default_config(self, model: str) -> RealtimeConfig:
        """Configuration of a conversation about which the client has said nothing."""
        info = self.engine.info
        config: RealtimeConfig = default_config(
            "realtime", model=model, voice=info.voices[0] if info.voices else ""
        )
        return config if info.voices else config.model_copy(update={"output_modalities": ["text"]})

    def _intended(self, intent: str) -> SessionConfig:
        if intent != "transcription":
            raise RequestError(
                f"Invalid value: '{intent[:64]}'. The only intent is 'transcription'.",
                code="invalid_value",
                param="intent",
            )
        config: SessionConfig = default_config("transcription", model="", voice="")
        return config
