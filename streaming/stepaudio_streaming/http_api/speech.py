"""`POST /v1/audio/speech`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from stepaudio_streaming.http_api import sse
from stepaudio_streaming.http_api.encoders import (
    MEDIA_TYPES,
    AudioFileFormat,
    encode_file,
    file_encoder,
)
from stepaudio_streaming.http_api.services import Speaker, Speech, SpeechRequest, SpokenPiece
from stepaudio_streaming.protocol.aliases import check_model, resolve_voice
from stepaudio_streaming.protocol.session_config import VoiceId
from stepaudio_streaming.protocol.validation import WireModel


class _Body(WireModel):
    input: Annotated[str, Field(min_length=1, max_length=4096)]
    model: str
    voice: str | VoiceId
    instructions: Annotated[str, Field(max_length=4096)] = ""
    response_format: AudioFileFormat = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    # Ours: the same seed gives the same speech.
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


def speech_routes(speaker: Speaker, model: str) -> APIRouter:
    """Build the endpoint.

    Args:
        speaker: speaks.
        model: name of its model.
    """
    router = APIRouter(tags=["audio"])

    @router.post("/audio/speech", response_model=None)
    async def speech(body: _Body) -> Response:
        """Speak a text; the sound is sent while it is made."""
        check_model(body.model, model)
        voice = body.voice.id if isinstance(body.voice, VoiceId) else body.voice
        request = SpeechRequest(
            text=body.input,
            voice=resolve_voice(voice, speaker.voices),
            instructions=body.instructions,
            speed=body.speed,
            seed=body.seed,
        )
        spoken = await speaker.speak(request)
        if body.stream_format == "sse":
            return sse.event_response(_events(spoken, body.response_format))
        return await _file(spoken, body.response_format)

    return router


async def _file(spoken: Speech, file_format: AudioFileFormat) -> Response:
    """Whole file with its length if all is there already, otherwise a stream."""
    pieces = spoken.pieces
    # Whatever fails before the first sound has a status of its own.
    first = await anext(pieces, None)
    media_type = MEDIA_TYPES[file_format]
    if first is None:
        return Response(encode_file(np.zeros(0, np.float32), file_format), media_type=media_type)
    second = asyncio.ensure_future(_next(pieces))
    await asyncio.wait({second}, timeout=0)
    if second.done() and second.exception() is None and second.result() is None:
        return Response(encode_file(first.samples, file_format), media_type=media_type)
    return StreamingResponse(_encoded(first, second, pieces, file_format), media_type=media_type)


async def _next(pieces: AsyncGenerator[SpokenPiece, None]) -> SpokenPiece | None:
    return await anext(pieces, None)


async def _encoded(
    first: SpokenPiece,
    second: asyncio.Future[SpokenPiece | None],
    pieces: AsyncGenerator[SpokenPiece, None],
    file_format: AudioFileFormat,
) -> AsyncIterator[bytes]:
    encoder = file_encoder(file_format)
    try:
        data = encoder.push(first.samples)
        if data:
            yield data
        piece = await second
        while piece is not None:
            data = encoder.push(piece.samples)
            if data:
                yield data
            piece = await anext(pieces, None)
        yield encoder.flush()
    finally:
        # A client that has gone ends the work.
        second.cancel()
        await asyncio.wait({second})
        await pieces.aclose()


async def _events(spoken: Speech, file_format: AudioFileFormat) -> AsyncIterator[bytes]:
    encoder = file_encoder(file_format)
    num_tokens = 0
    try:
        async for piece in spoken.pieces:
            num_tokens += piece.num_tokens
            data = encoder.push(piece.samples)
            if data:
                yield _delta(data)
        tail = encoder.flush()
        if tail:
            yield _delta(tail)
    finally:
        await spoken.pieces.aclose()
    usage: dict[str, Any] = {
        "input_tokens": spoken.input_tokens,
        "output_tokens": num_tokens,
        "total_tokens": spoken.input_tokens + num_tokens,
    }
    yield sse.event({"type": "speech.audio.done", "usage": usage})


def _delta(data: bytes) -> bytes:
    audio = base64.b64encode(data).decode("ascii")
    return sse.event({"type": "speech.audio.delta", "audio": audio})
