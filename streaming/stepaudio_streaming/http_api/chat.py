"""`POST /v1/chat/completions`: one answer of the engine, whole or streamed."""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from stepaudio.errors import StepAudioError
from stepaudio_streaming.audio import encode_audio
from stepaudio_streaming.engine_api import Engine
from stepaudio_streaming.events import (
    Configure,
    ContextItem,
    Output,
    OutputAudio,
    OutputFinished,
    OutputStarted,
    OutputText,
    OutputToolCall,
    PromptTokens,
    ReplyOptions,
    Respond,
    Samples,
)
from stepaudio_streaming.http_api import sse
from stepaudio_streaming.http_api.chat_request import (
    AudioParams,
    ChatBody,
    context_items,
    reply_options,
)
from stepaudio_streaming.http_api.encoders import AudioFileFormat, encode_file
from stepaudio_streaming.protocol.aliases import check_model
from stepaudio_streaming.protocol.ids import random_id

AUDIO_TTL_S = 3600
_MAX_REMEMBERED = 1000


class SpokenAnswers:
    """Transcripts of spoken answers, which later requests may refer to by id.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def remember(self, audio_id: str, transcript: str) -> int:
        """Keep a transcript; returns when it is forgotten, in seconds since 1970."""
        expires_at = self._clock() + AUDIO_TTL_S
        self._said[audio_id] = expires_at, transcript
        while len(self._said) > _MAX_REMEMBERED:
            self._said.popitem(last=False)
        return int(expires_at)

    def recall(self, audio_id: str) -> str | None:
        """Transcript of an answer, None if it is unknown or forgotten."""
        expires_at, transcript = self._said.get(audio_id, (0.0, ""))
        return transcript if expires_at > self._clock() else None


@dataclass
class _Answer:
    """What has come of an answer so far."""

    prompt: PromptTokens = field(default_factory=PromptTokens)
    text: str = ""
    sound: list[Samples] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    text_tokens: int = 0
    audio_tokens: int = 0
    finish_reason: str = "stop"

    def take(self, event: Output) -> None:
        if isinstance(event, OutputStarted):
            self.prompt = event.prompt
        elif isinstance(event, OutputText):
            self.text += event.text
            self.text_tokens += event.num_tokens
        elif isinstance(event, OutputAudio):
            self.sound.append(event.samples)
            self.audio_tokens += event.num_tokens
        elif isinstance(event, OutputToolCall):
            self.text_tokens += event.num_tokens
            function = {"name": event.name, "arguments": event.arguments}
            self.calls.append({"id": random_id("call"), "type": "function", "function": function})
            self.finish_reason = "tool_calls"
        elif event.status == "failed":
            raise StepAudioError(event.error or "The answer failed.")
        elif event.status == "incomplete":
            filtered = event.reason == "content_filter"
            self.finish_reason = "content_filter" if filtered else "length"

    def usage(self) -> dict[str, Any]:
        prompt = self.prompt
        num_in, num_out = prompt.text + prompt.audio, self.text_tokens + self.audio_tokens
        return {
            "prompt_tokens": num_in,
            "completion_tokens": num_out,
            "total_tokens": num_in + num_out,
            "prompt_tokens_details": {
                "audio_tokens": prompt.audio,
                "cached_tokens": prompt.cached_text + prompt.cached_audio,
            },
            "completion_tokens_details": {
                "audio_tokens": self.audio_tokens,
                "text_tokens": self.text_tokens,
                "reasoning_tokens": 0,
            },
        }


def chat_routes(engine: Engine, *, clock: Callable[[], float] = time.time) -> APIRouter:
    """Build the endpoint.

    Args:
        engine: answers; a request takes one of its slots.
        clock: seconds since 1970.
    """
    router = APIRouter(tags=["chat"])
    spoken = SpokenAnswers(clock)

    @router.post("/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody) -> Response:
        """Answer a conversation, in writing or in speech."""
        check_model(body.model, engine.info.model)
        options = reply_options(body, engine.info.voices)
        context = await context_items(body.messages, spoken.recall)
        events = _answer(engine, options, context)
        head = {"id": random_id("chatcmpl"), "created": int(clock()), "model": body.model}
        # Whatever fails before the first event has a status of its own.
        first = await anext(events)
        if body.stream:
            return sse.event_response(_chunks(first, events, body, head, spoken))
        answer = _Answer()
        answer.take(first)
        async for event in events:
            answer.take(event)
        return JSONResponse(_completion(answer, body, head, spoken))

    return router


async def _answer(
    engine: Engine, options: ReplyOptions, context: tuple[ContextItem, ...]
) -> AsyncGenerator[Output, None]:
    """Output of one answer, in a session of its own.

    Raises:
        CapacityError: every slot is taken.
        StepAudioError: the engine failed.
    """
    settings = Configure(
        turn_detection=None, transcription=None, noise_reduction=None, reply=options
    )
    session = await engine.open_session(settings)
    try:
        respond = Respond(response_id="answer", item_id="message", options=options, context=context)
        await session.send(respond)
        async for event in session.events():
            if not isinstance(
                event, OutputStarted | OutputText | OutputAudio | OutputToolCall | OutputFinished
            ):
                continue
            yield event
            if isinstance(event, OutputFinished):
                return
        raise StepAudioError("The engine has ended the session.")
    finally:
        await session.close()


def _completion(
    answer: _Answer, body: ChatBody, head: dict[str, Any], spoken: SpokenAnswers
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if body.speaks and answer.sound and body.audio is not None:
        audio_id = random_id("audio")
        data = _encoded(np.concatenate(answer.sound), body.audio)
        message["content"] = None
        message["audio"] = {
            "id": audio_id,
            "data": base64.b64encode(data).decode("ascii"),
            "transcript": answer.text,
            "expires_at": spoken.remember(audio_id, answer.text),
        }
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = answer.calls
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": answer.finish_reason,
        "logprobs": None,
    }
    return {**head, "object": "chat.completion", "choices": [choice], "usage": answer.usage()}


def _encoded(samples: Samples, params: AudioParams) -> bytes:
    file_format: AudioFileFormat = "pcm" if params.format == "pcm16" else params.format
    return encode_file(samples, file_format)


async def _chunks(
    first: Output,
    events: AsyncGenerator[Output, None],
    body: ChatBody,
    head: dict[str, Any],
    spoken: SpokenAnswers,
) -> AsyncIterator[bytes]:
    answer, audio_id = _Answer(), random_id("audio")
    with_usage = body.stream_options is not None and body.stream_options.include_usage

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {
            "index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None
        }  # fmt: skip
        fields = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        return sse.event(fields | ({"usage": None} if with_usage else {}))

    try:
        yield chunk({"role": "assistant", "content": None if body.speaks else "", "refusal": None})
        answer.take(first)
        for delta in _deltas(first, answer, body.speaks, audio_id):
            yield chunk(delta)
        async for event in events:
            answer.take(event)
            answer.sound.clear()
            for delta in _deltas(event, answer, body.speaks, audio_id):
                yield chunk(delta)
    finally:
        await events.aclose()
    if body.speaks and answer.audio_tokens:
        yield chunk(
            {"audio": {"id": audio_id, "expires_at": spoken.remember(audio_id, answer.text)}}
        )
    yield chunk({}, answer.finish_reason)
    if with_usage:
        fields = {**head, "object": "chat.completion.chunk", "choices": []}
        yield sse.event(fields | {"usage": answer.usage()})
    yield sse.DONE


def _deltas(event: Output, answer: _Answer, speaks: bool, audio_id: str) -> list[dict[str, Any]]:
    if isinstance(event, OutputText) and event.text:
        if speaks:
            return [{"audio": {"id": audio_id, "transcript": event.text}}]
        return [{"content": event.text}]
    if isinstance(event, OutputAudio) and speaks:
        data = base64.b64encode(encode_audio(event.samples, "audio/pcm")).decode("ascii")
        return [{"audio": {"id": audio_id, "data": data}}]
    if isinstance(event, OutputToolCall):
        return [{"tool_calls": [{"index": len(answer.calls) - 1, **answer.calls[-1]}]}]
    return []
