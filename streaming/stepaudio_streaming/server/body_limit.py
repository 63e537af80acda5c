"""Limit of request bodies, and a count of responses, for every HTTP request."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepaudio_streaming.server.errors import error_response
from stepaudio_streaming.server.metrics import Counter

_UPLOADS = ("/v1/audio/transcriptions", "/v1/audio/translations")
_FORM_OVERHEAD = 1 << 20  # boundaries and the other fields of a form


class _TooLarge(Exception):
    """The body has exceeded its limit while it was read."""


class BodyLimit:
    """ASGI middleware that answers 413 to bodies that are too large, without reading them.

    Args:
        app: what it protects.
        max_upload_bytes: of a file.
        max_json_bytes: of any other body.
        requests: counts responses by their status.
    """

    def __init__(
        self, app: ASGIApp, *, max_upload_bytes: int, max_json_bytes: int, requests: Counter
    ) -> None:
        self._app = app
        self._max_upload_bytes = max_upload_bytes
        self._max_json_bytes = max_json_bytes
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_upload = scope["path"] in _UPLOADS
        limit = self._max_upload_bytes if is_upload else self._max_json_bytes
        allowed = limit + (_FORM_OVERHEAD if is_upload else 0)
        num_read, has_started = 0, False

        async def limited_receive() -> Message:
            nonlocal num_read
            message = await receive()
            num_read += len(message.get("body", b""))
            if num_read > allowed:
                raise _TooLarge
            return message

        async def counting_send(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                self._requests.add(label=str(message["status"]))
            await send(message)

        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        try:
            if announced.isdigit() and int(announced) > allowed:
                raise _TooLarge
            await self._app(scope, limited_receive, counting_send)
        except _TooLarge:
            if has_started:
                raise
            message = f"Maximum content size limit ({limit} bytes) exceeded."
            response = error_response(413, message, code="content_too_large")
            await response(scope, receive, counting_send)
