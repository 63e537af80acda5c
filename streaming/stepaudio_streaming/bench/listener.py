"""Follows the server's events of one connection, and times them."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from stepaudio_streaming.bench.player import Player
from stepaudio_streaming.bench.recordings import RATE
from stepaudio_streaming.bench.turns import Turn


@dataclass
class Answer:
    """An answer that is waited for or heard. Times of the steady clock; None: not yet.

    Attributes:
        keeps_sound: `sound` is kept.
        response_id: empty: there is none yet.
        item_id: of its sound.
        stopped_at: when the server found that the question was over.
        first_at: first sound.
        last_at: last sound.
        onset_at: when the user began to interrupt it.
        told_at: when the server noticed that.
        was_being_made: it was not complete when the user began to interrupt.
        status: of the response.
        text: transcript.
        heard: transcript of the question.
        sound: PCM16 at 24 kHz.
        player: plays it.
        begun, done, told: set when there is sound, when nothing follows, when the server noticed
            the interruption.
    """

    keeps_sound: bool = False
    response_id: str = ""
    item_id: str = ""
    stopped_at: float | None = None
    first_at: float | None = None
    last_at: float | None = None
    onset_at: float | None = None
    told_at: float | None = None
    was_being_made: bool = False
    status: str = ""
    text: str = ""
    heard: str = ""
    sound: bytearray = field(default_factory=bytearray)
    player: Player = field(default_factory=Player)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def create(self, response_id: str) -> None:
        """The response begins; an earlier one answered a pause within the question."""
        self.response_id, self.item_id, self.first_at = response_id, "", None
        self.player, self.sound = Player(), bytearray()
        self.begun.clear()
        self.done.clear()

    def interrupt(self, onset_at: float) -> None:
        """The user began to speak."""
        self.onset_at, self.was_being_made = onset_at, not self.done.is_set()

    def take(self, event: dict[str, Any], now: float) -> None:
        """Sound comes."""
        pcm = base64.b64decode(event["delta"])
        if self.first_at is None:
            self.first_at, self.item_id = now, event["item_id"]
        self.last_at = now
        self.player.receive(1000 * len(pcm) / 2 / RATE, now)
        if self.keeps_sound:
            self.sound += pcm
        self.begun.set()

    def finish(self, response: dict[str, Any]) -> None:
        """Nothing follows."""
        self.status = response["status"]
        parts = [part for item in response["output"] for part in item.get("content", [])]
        self.text = " ".join(part.get("transcript") or part.get("text") or "" for part in parts)
        # Whoever waits for sound to interrupt it: there will be none any more.
        self.begun.set()
        self.done.set()

    def measure(self, turn: Turn) -> None:
        """Write down what was measured."""
        if self.stopped_at is not None:
            turn.vad_wait_s = self.stopped_at - turn.ended_at
        if self.first_at is not None:
            turn.first_audio_s = self.first_at - turn.ended_at
        turn.underruns, turn.underrun_s = self.player.underruns, self.player.underrun_s
        turn.audio_s, turn.status = self.player.received_ms / 1000, self.status
        turn.said, turn.heard, turn.sound = self.text, self.heard, bytes(self.sound)
        if self.onset_at is None:
            return
        turn.was_interrupted, turn.was_being_made = True, self.was_being_made
        if self.was_being_made and self.last_at is not None:
            turn.stop_s = max(0.0, self.last_at - self.onset_at)
        if self.told_at is not None:
            turn.told_s = self.told_at - self.onset_at


class Listener:
    """Events of one connection.

    Args:
        counts: errors, and events that are not of this session, are counted there.
        keeps_sound: answers keep their sound.

    Attributes:
        answer: the one that is waited for or heard.
        configured: set when the session is.
    """

    def __init__(self, counts: Counter[str], *, keeps_sound: bool = False) -> None:
        self._counts = counts
        self._keeps_sound = keeps_sound
        self.answer = Answer(keeps_sound)
        self.configured = asyncio.Event()
        self._asides: deque[Answer] = deque()
        self._known: dict[str, Answer] = {}  # responses of this connection

    def expect(self) -> Answer:
        """A question begins: responses from now on answer it; those of the last one go on."""
        self.answer = Answer(self._keeps_sound)
        return self.answer

    def expect_aside(self) -> Answer:
        """A response outside of the conversation is going to be asked for."""
        answer = Answer(self._keeps_sound)
        self._asides.append(answer)
        return answer

    async def wait(self, event: asyncio.Event, hearing: asyncio.Task[None], limit_s: float) -> bool:
        """Wait for an event; False: it took too long.

        Raises:
            ConnectionClosed: the connection ended before.
        """
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait(
                {waiting, hearing}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()
        if hearing.done():
            hearing.result()
        return event.is_set()

    def hear(self, event: dict[str, Any], now: float) -> None:
        """Take the next event of the server."""
        kind = event["type"]
        if kind == "session.updated":
            self.configured.set()
        elif kind == "error":
            self._counts[f"errors ({event['error'].get('code')})"] += 1
        elif kind == "response.created":
            self._create(event["response"])
        elif kind == "response.done":
            answer = self._of(event["response"]["id"])
            if answer is not None:
                answer.finish(event["response"])
        elif "response_id" in event:
            answer = self._of(event["response_id"])
            if answer is not None and kind == "response.output_audio.delta":
                answer.take(event, now)
        elif kind == "input_audio_buffer.speech_stopped":
            self.answer.stopped_at = now
        elif kind == "input_audio_buffer.speech_started":
            self._notice(now)
        elif kind == "conversation.item.input_audio_transcription.completed":
            self.answer.heard = event["transcript"]

    def _create(self, response: dict[str, Any]) -> None:
        response_id = response["id"]
        if response.get("conversation_id") is None:
            aside = self._asides.popleft() if self._asides else Answer()
            aside.create(response_id)
            self._known[response_id] = aside
            return
        earlier = self.answer.response_id
        if earlier:
            self._known[earlier] = Answer()
        self.answer.create(response_id)
        self._known[response_id] = self.answer

    def _of(self, response_id: str) -> Answer | None:
        """Answer of a response; None: it is not of this connection."""
        answer = self._known.get(response_id)
        if answer is None:
            self._counts["foreign events"] += 1
        return answer

    def _notice(self, now: float) -> None:
        """The server hears the user begin."""
        for answer in self._known.values():
            if answer.onset_at is not None and answer.told_at is None:
                answer.told_at = now
                answer.player.stop(now)
                answer.told.set()
