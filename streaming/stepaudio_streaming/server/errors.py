"""Error bodies in the form of the OpenAI API."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stepaudio.errors import AudioLoadError, CapacityError, RequestError, StepAudioError
from stepaudio_streaming.protocol.error_body import error_body
from stepaudio_streaming.protocol.validation import request_error

_log = logging.getLogger(__name__)

_STATUS: dict[str | None, int] = {"model_not_found": 404, "content_too_large": 413}
INTERNAL = "The server had an error while processing your request."


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Error response; its type follows from the status."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    if status >= 500:
        kind = "server_error"
    body = error_body(message, kind=kind, code=code, param=param)
    return JSONResponse(body, status_code=status, headers=headers)


def wrong_key() -> JSONResponse:
    """Response for a missing or wrong key."""
    return error_response(
        401,
        "Incorrect or missing API key. Send it as 'Authorization: Bearer KEY'.",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def busy(message: str) -> JSONResponse:
    """Response where there is no free slot."""
    return error_response(429, message, code="rate_limit_exceeded", headers={"retry-after": "1"})


def not_ready(message: str) -> JSONResponse:
    """Response of a server that is starting or ending."""
    return error_response(503, message, code="unavailable", headers={"retry-after": "1"})


def refused(error: RequestError) -> JSONResponse:
    """Response for a request that cannot be served."""
    return error_response(
        _STATUS.get(error.code, 400), str(error), code=error.code, param=error.param
    )


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of an application look like one of the OpenAI API."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 401:
            return wrong_key()
        if error.status_code == 503:
            return not_ready(str(error.detail))
        message = str(error.detail)
        if error.status_code == 404:
            message = f"Unknown request URL: {request.method} {request.url.path}."
        headers = dict(error.headers) if error.headers else None
        return error_response(error.status_code, message, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused(request_error(error.errors(), error.body, "body"))

    @app.exception_handler(RequestError)
    async def refuse(request: Request, error: RequestError) -> JSONResponse:
        return refused(error)

    @app.exception_handler(AudioLoadError)
    async def unreadable(request: Request, error: AudioLoadError) -> JSONResponse:
        return error_response(400, str(error), code="invalid_audio", param="file")

    @app.exception_handler(CapacityError)
    async def full(request: Request, error: CapacityError) -> JSONResponse:
        return busy(str(error))

    @app.exception_handler(StepAudioError)
    async def failed(request: Request, error: StepAudioError) -> JSONResponse:
        _log.error("%s %s failed: %s", request.method, request.url.path, error)
        return error_response(500, str(error))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        # Starlette logs the traceback; the client learns nothing of it.
        return error_response(500, INTERNAL)
