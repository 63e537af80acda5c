"""The microphone of a simulated speaker: a frame every 20 ms, whether somebody speaks or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from stepaudio_streaming.bench.recordings import FRAME_MS, Recording, silence_event


@dataclass
class Utterance:
    """A recording that is being said.

    Attributes:
        recording: what.
        onset_at: when its first frame of speech was sent, in seconds of the steady clock.
        end_at: when its last one was.
        begun: set at the onset.
        ended: set at the end.
    """

    recording: Recording
    onset_at: float = 0.0
    end_at: float = 0.0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Microphone:
    """Sends frames in real time.

    Args:
        send: sends a message.
        lags: takes how late every frame was sent, in seconds.
        silence_s: silence behind an utterance that is sent; None: all of it, as microphones do.
    """

    def __init__(
        self,
        send: Callable[[str], Awaitable[None]],
        lags: list[float],
        *,
        silence_s: float | None = None,
    ) -> None:
        self._send = send
        self._lags = lags
        self._silence_s = silence_s
        self._waiting: list[Utterance] = []

    def say(self, recording: Recording) -> Utterance:
        """Say something, behind what is being said."""
        utterance = Utterance(recording)
        self._waiting.append(utterance)
        return utterance

    async def run(self) -> None:
        """Send until this is cancelled."""
        due, position, silence_s = time.monotonic(), 0, 0.0
        while True:
            delay = due - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            self._lags.append(max(0.0, time.monotonic() - due))
            due += FRAME_MS / 1000
            if not self._waiting:
                silence_s += FRAME_MS / 1000
                if self._silence_s is None or silence_s <= self._silence_s:
                    await self._send(silence_event())
                continue
            silence_s = 0.0
            utterance = self._waiting[0]
            recording = utterance.recording
            now = time.monotonic()
            if position == recording.onset:
                utterance.onset_at = now
                utterance.begun.set()
            if position == recording.end:
                utterance.end_at = now
                utterance.ended.set()
            await self._send(recording.messages[position])
            position += 1
            if position == len(recording.messages):
                self._waiting.pop(0)
                position = 0
