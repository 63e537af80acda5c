"""Server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from stepaudio.errors import StepAudioError
from stepaudio_streaming.protocol.error_body import error_body

_log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def event_response(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Response that sends events; an error in their midst becomes the last one."""
    return StreamingResponse(
        _guarded(events),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


async def _guarded(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for data in events:
            yield data
    except StepAudioError as error:
        _log.error("a stream failed: %s", error)
        yield event(error_body(str(error), kind="server_error", code="server_error"))
