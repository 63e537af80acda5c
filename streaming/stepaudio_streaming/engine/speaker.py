"""Texts of the HTTP endpoints, spoken by the same engine as the realtime sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine.engine import StreamingEngine, StreamingSession
from stepaudio_streaming.engine.parts import SpeechWish
from stepaudio_streaming.engine.session import Say
from stepaudio_streaming.events import Configure, OutputAudio, OutputFinished, ReplyOptions
from stepaudio_streaming.http_api.services import Speech, SpeechRequest, SpokenPiece

_SETTINGS = Configure(
    turn_detection=None,
    transcription=None,
    noise_reduction=None,
    reply=ReplyOptions(modality="text"),
)


class EngineSpeaker:
    """See `Speaker`; every text takes a session of the engine.

    Args:
        engine: speaks.
    """

    def __init__(self, engine: StreamingEngine) -> None:
        self._engine = engine

    @property
    def voices(self) -> tuple[str, ...]:
        """See `Speaker`."""
        return self._engine.info.voices

    async def speak(self, request: SpeechRequest) -> Speech:
        """See `Speaker`."""
        session = await self._engine.open_session(_SETTINGS)
        wish = SpeechWish(request.voice, request.instructions, request.speed, request.seed)
        await session.send(Say("speech", request.text, wish))
        return Speech(_pieces(session), len(request.text.split()))


async def _pieces(session: StreamingSession) -> AsyncGenerator[SpokenPiece, None]:
    try:
        async for event in session.events():
            if isinstance(event, OutputAudio):
                yield SpokenPiece(event.samples, event.num_tokens)
            elif isinstance(event, OutputFinished):
                if event.status == "failed":
                    raise StepAudioError(event.error or "the text could not be spoken")
                return
    finally:
        await session.close()
