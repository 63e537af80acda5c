"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import math
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Response, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from stepaudio.errors import RequestError
from stepaudio.tasks.subtitles import to_srt, to_vtt
from stepaudio.tasks.transcript import Segment, join_texts
from stepaudio_streaming.http_api import sse
from stepaudio_streaming.http_api.services import (
    Recognition,
    RecognitionRequest,
    SpeechRecognizer,
)
from stepaudio_streaming.protocol.aliases import check_model

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]

_LANGUAGES = {
    "de": "german", "en": "english", "es": "spanish", "fr": "french", "ja": "japanese",
    "ko": "korean", "ru": "russian", "yue": "cantonese", "zh": "chinese",
}  # fmt: skip


class _Form(BaseModel):
    """Fields of a form; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile
    model: str
    prompt: str = ""
    response_format: ResponseFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0


class _TranscriptionForm(_Form):
    language: str | None = None
    languages: list[str] = Field(default=[], alias="languages[]")
    keywords: list[str] = Field(default=[], alias="keywords[]")
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        default=[], alias="timestamp_granularities[]"
    )
    include: list[Literal["logprobs"]] = Field(default=[], alias="include[]")
    # Recordings are always cut at pauses; both forms of this field ask for that.
    chunking_strategy: str | None = None
    stream: bool = False


def transcription_routes(
    recognizer: SpeechRecognizer, model: str, *, max_upload_bytes: int = 25_000_000
) -> APIRouter:
    """Build the endpoints.

    Args:
        recognizer: writes down recordings.
        model: name of its model.
        max_upload_bytes: of a recording.
    """
    router = APIRouter(tags=["audio"])

    async def read(form: _Form) -> bytes:
        check_model(form.model, model)
        if (form.file.size or 0) > max_upload_bytes:
            raise RequestError(
                f"The file has more than {max_upload_bytes} bytes.",
                code="content_too_large",
                param="file",
            )
        return await form.file.read()

    @router.post("/audio/transcriptions", response_model=None)
    async def transcriptions(
        form: Annotated[_TranscriptionForm, Form(media_type="multipart/form-data")],
    ) -> Response:
        """Write down a recording."""
        _check(form)
        words = "word" in form.timestamp_granularities
        recognition = await recognizer.recognize(
            RecognitionRequest(
                audio=await read(form),
                name=form.file.filename or "file",
                language=form.language or (form.languages[0] if form.languages else None),
                prompt=form.prompt,
                keywords=tuple(form.keywords),
                temperature=form.temperature,
                words=words,
                stream=form.stream,
            )
        )
        if form.stream:
            return sse.event_response(_events(recognition))
        found = [segment async for segment in recognition.segments]
        granularities = form.timestamp_granularities or ["segment"]
        return _response(form.response_format, "transcribe", recognition, found, granularities)

    @router.post("/audio/translations", response_model=None)
    async def translations(
        form: Annotated[_Form, Form(media_type="multipart/form-data")],
    ) -> Response:
        """Write down a recording in English."""
        if form.response_format == "diarized_json":
            raise _unsupported("response_format", "Speakers are not told apart.")
        request = RecognitionRequest(
            audio=await read(form),
            name=form.file.filename or "file",
            prompt=form.prompt,
            temperature=form.temperature,
            translate=True,
        )
        recognition = await recognizer.recognize(request)
        found = [segment async for segment in recognition.segments]
        return _response(form.response_format, "translate", recognition, found, ["segment"])

    return router


def _check(form: _TranscriptionForm) -> None:
    if form.response_format == "diarized_json":
        raise _unsupported("response_format", "Speakers are not told apart.")
    if form.include:
        raise _unsupported("include", "Log probabilities are not available.")
    if form.timestamp_granularities and form.response_format != "verbose_json":
        raise RequestError(
            "timestamp_granularities needs response_format 'verbose_json'.",
            code="invalid_value",
            param="timestamp_granularities",
        )
    if form.stream and form.response_format not in ("json", "text"):
        raise RequestError(
            "A stream has response_format 'json' or 'text'.",
            code="invalid_value",
            param="response_format",
        )


def _unsupported(param: str, message: str) -> RequestError:
    return RequestError(message, code="unsupported_value", param=param)


def _usage(duration_s: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(duration_s, 3)}


async def _events(recognition: Recognition) -> AsyncIterator[bytes]:
    text = ""
    async for segment in recognition.segments:
        joined = join_texts([text, segment.text])
        if joined != text:
            delta, text = joined[len(text) :], joined
            yield sse.event({"type": "transcript.text.delta", "delta": delta})
    usage = _usage(recognition.duration_s)
    yield sse.event({"type": "transcript.text.done", "text": text, "usage": usage})


def _response(
    response_format: ResponseFormat,
    task: str,
    recognition: Recognition,
    segments: Sequence[Segment],
    granularities: Sequence[str],
) -> Response:
    text = join_texts([segment.text for segment in segments])
    if response_format == "text":
        return PlainTextResponse(text + "\n")
    if response_format == "srt":
        return PlainTextResponse(to_srt(segments))
    if response_format == "vtt":
        return PlainTextResponse(to_vtt(segments))
    usage = _usage(recognition.duration_s)
    if response_format == "json":
        return JSONResponse({"text": text, "usage": usage})
    body = {
        "task": task,
        "language": _LANGUAGES.get(recognition.language, recognition.language),
        "duration": round(recognition.duration_s, 3),
        "text": text,
        "segments": [_segment(index, segment) for index, segment in enumerate(segments)],
        "usage": usage,
    }
    if "word" in granularities:
        body["words"] = [
            {"word": word.text, "start": word.start, "end": word.end}
            for segment in segments
            for word in segment.words
        ]
    if "segment" not in granularities:
        del body["segments"]
    return JSONResponse(body)


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    """Segment with all fields that the SDK requires; what is not measured is zero."""
    confidences = [max(word.confidence, 1e-6) for word in segment.words]
    mean = sum(map(math.log, confidences)) / len(confidences) if confidences else 0.0
    encoded = segment.text.encode()
    return {
        "id": index,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(mean, 4),
        "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 3),
        "no_speech_prob": 0.0,
    }
