"""A deterministic engine: loud is speech, answers are scripted, speech is a tone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np

from stepaudio.errors import CapacityError, StepAudioError
from stepaudio_streaming.engine_api import EngineInfo, EngineSession
from stepaudio_streaming.events import (
    INPUT_RATE,
    OUTPUT_RATE,
    AppendAudio,
    CancelResponse,
    ClearAudio,
    Command,
    CommitAudio,
    Configure,
    Event,
    OutputAudio,
    OutputFinished,
    OutputStarted,
    OutputText,
    OutputToolCall,
    PromptTokens,
    Respond,
    UserTranscript,
)
from stepaudio_streaming.playback import PlaybackClock
from stepaudio_streaming.turn import FRAME_MS, TurnDetector

FRAME = INPUT_RATE * FRAME_MS // 1000
TONE_HZ = 440.0


@dataclass(frozen=True)
class Line:
    """One scripted answer.

    Attributes:
        words: what is said, a piece of audio for each word.
        word_ms: duration of each word.
        call: function name and arguments instead.
        delay_s: time to think before anything is said.
        pace_s: time between words.
        error: the answer fails with this.
    """

    words: tuple[str, ...] = ("Hello", " there.")
    word_ms: int = 200
    call: tuple[str, str] | None = None
    delay_s: float = 0.0
    pace_s: float = 0.0
    error: str | None = None


@dataclass
class ScriptedEngine:
    """Serves scripted sessions.

    Attributes:
        lines: answers in turn; the last one is repeated.
        max_sessions: slots.
        ready: warm.
        sessions: all that were opened.
        break_with: the next command fails a session so.
    """

    lines: tuple[Line, ...] = (Line(),)
    max_sessions: int = 100
    ready: bool = True
    break_with: Exception | None = None
    sessions: list[ScriptedSession] = field(default_factory=list)

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(model="nano", voices=("kathleen", "emodb03"), created=1_700_000_000)

    @property
    def num_open(self) -> int:
        return sum(not session.closed for session in self.sessions)

    async def open_session(self, settings: Configure) -> EngineSession:
        if self.num_open >= self.max_sessions:
            raise CapacityError("every slot of the engine is taken")
        session = ScriptedSession(self, settings)
        self.sessions.append(session)
        return session


class ScriptedSession:
    def __init__(self, engine: ScriptedEngine, settings: Configure) -> None:
        self.closed = False
        self.commands: list[Command] = []
        self._engine = engine
        self._settings = settings
        self._inbox: asyncio.Queue[Command] = asyncio.Queue(16)
        self._outbox: asyncio.Queue[Event | Exception | None] = asyncio.Queue(64)
        self._detector = TurnDetector(settings.turn_detection)
        self._pending = np.zeros(0, np.float32)
        self._heard = 0  # samples since the last commit
        self._playback = PlaybackClock()
        self._num_replies = 0
        self._replies: dict[str, asyncio.Task[None]] = {}
        self._task = asyncio.create_task(self._work())

    async def send(self, command: Command) -> None:
        if self.closed:
            raise StepAudioError("the session is closed")
        await self._inbox.put(command)

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._outbox.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    async def close(self) -> None:
        self.closed = True
        for task in (self._task, *self._replies.values()):
            task.cancel()

    async def _work(self) -> None:
        while True:
            command = await self._inbox.get()
            self.commands.append(command)
            if self._engine.break_with is not None:
                await self._outbox.put(self._engine.break_with)
                return
            await self._obey(command)

    async def _obey(self, command: Command) -> None:
        if isinstance(command, Configure):
            self._settings = command
            await self._emit(*self._detector.configure(command.turn_detection))
        elif isinstance(command, AppendAudio):
            await self._hear(command.samples)
        elif isinstance(command, ClearAudio):
            self._heard = 0
            await self._emit(*self._detector.clear())
        elif isinstance(command, CommitAudio):
            await self._commit(command)
        elif isinstance(command, Respond):
            line = self._engine.lines[min(self._num_replies, len(self._engine.lines) - 1)]
            self._num_replies += 1
            task = asyncio.create_task(self._reply(command, line))
            self._replies[command.response_id] = task
        elif isinstance(command, CancelResponse):
            task_ = self._replies.pop(command.response_id, None)
            if task_ is not None:
                task_.cancel()
            self._playback.stop(time.monotonic())

    async def _hear(self, samples: np.ndarray) -> None:
        self._heard += len(samples)
        self._pending = np.concatenate([self._pending, samples])
        whole = len(self._pending) - len(self._pending) % FRAME
        frames, self._pending = self._pending[:whole], self._pending[whole:]
        for frame in frames.reshape(-1, FRAME):
            probability = 0.95 if np.abs(frame).max() > 0.05 else 0.02
            bot_speaking = self._playback.unplayed_ms(time.monotonic()) > 0
            await self._emit(*self._detector.push(probability, bot_speaking=bot_speaking))

    async def _commit(self, command: CommitAudio) -> None:
        heard_ms, self._heard = self._heard * 1000 // INPUT_RATE, 0
        if command.end_ms is None:
            await self._emit(*self._detector.clear())
        if self._settings.transcription is not None:
            text = f"{heard_ms} ms"
            await self._emit(UserTranscript(command.item_id, text))
            await self._emit(UserTranscript(command.item_id, text, final=True))

    async def _reply(self, command: Respond, line: Line) -> None:
        response_id = command.response_id
        await self._emit(OutputStarted(response_id, PromptTokens(text=8, audio=4)))
        await asyncio.sleep(line.delay_s)
        if line.call is not None:
            await self._emit(OutputToolCall(response_id, *line.call, num_tokens=5))
        else:
            for word in line.words:
                await self._emit(OutputText(response_id, word))
                if command.options.modality == "audio":
                    await self._emit(OutputAudio(response_id, tone(line.word_ms), num_tokens=5))
                    self._playback.send(line.word_ms, time.monotonic())
                await asyncio.sleep(line.pace_s)
        if line.error is not None:
            await self._emit(OutputFinished(response_id, "failed", error=line.error))
        else:
            await self._emit(OutputFinished(response_id))

    async def _emit(self, *events: Event) -> None:
        for event in events:
            await self._outbox.put(event)


def tone(ms: int) -> np.ndarray:
    """The voice of the engine, float32 at 24 kHz."""
    times = np.arange(OUTPUT_RATE * ms // 1000) / OUTPUT_RATE
    return (0.3 * np.sin(2 * np.pi * TONE_HZ * times)).astype(np.float32)
