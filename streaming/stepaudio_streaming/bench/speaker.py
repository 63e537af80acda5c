"""One simulated speaker: asks, listens, interrupts, and now and then drops dead."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from stepaudio.errors import StepAudioError
from stepaudio_streaming.bench.listener import Answer, Listener
from stepaudio_streaming.bench.microphone import Microphone, Utterance
from stepaudio_streaming.bench.recordings import Recording
from stepaudio_streaming.bench.target import Target
from stepaudio_streaming.bench.turns import Turn

_RECONNECT_S = 10.0  # the slot of a client that was killed is free long before
_BUSY = (429, 503)


@dataclass(frozen=True, kw_only=True)
class SpeakerOptions:
    """How speakers behave.

    Attributes:
        turns: questions of each; None: until the time is over.
        barge_in: share of the answers that are interrupted.
        kill: share of the turns in which the client dies without a word, and comes back.
        answer_timeout_s: an answer that takes longer is given up.
        pause_s: between hearing an answer and the next question, at most.
        session: further fields of the session.
        keeps_sound: turns keep what was heard.
        silence_s: silence behind a question that is sent; None: all of it.
    """

    turns: int | None = 5
    barge_in: float = 0.0
    kill: float = 0.0
    answer_timeout_s: float = 60.0
    pause_s: float = 0.6
    session: Mapping[str, Any] = field(default_factory=dict)
    keeps_sound: bool = False
    silence_s: float | None = None


@dataclass
class Tally:
    """What all speakers have seen, up to now.

    Attributes:
        turns: in the order in which they ended.
        lags: how late every frame was sent, in seconds.
        connects: how long it took to open a session, in seconds.
        counts: kills, lost and refused connections, foreign events; errors by code.
    """

    turns: list[Turn] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    connects: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Question:
    """What is being said, and the answer that it will get."""

    utterance: Utterance
    answer: Answer


@dataclass
class Call:
    """One connection of a speaker.

    Attributes:
        connection: to the server.
        microphone: what is sent.
        listener: what comes back.
        hearing: task that gives it to the listener.
        limit_s: waits are given up behind this.
        is_dead: the client dies in this turn.
    """

    connection: ClientConnection
    microphone: Microphone
    listener: Listener
    hearing: asyncio.Task[None]
    limit_s: float
    is_dead: bool = False

    async def wait(self, event: asyncio.Event) -> bool:
        """Wait for an event; False: it took too long.

        Raises:
            ConnectionClosed: the connection ended before.
        """
        return await self.listener.wait(event, self.hearing, self.limit_s)

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event."""
        await self.connection.send(json.dumps({"type": kind, **fields}))


class Speaker:
    """One client.

    Args:
        number: its name.
        target: the server.
        recordings: what it may say.
        options: how it behaves.
        tally: where it writes.
        random: decides everything that is left to chance.
        on_turn: is told of every turn that is over.
    """

    def __init__(
        self,
        number: int,
        target: Target,
        recordings: tuple[Recording, ...],
        options: SpeakerOptions,
        tally: Tally,
        *,
        random: Random,
        on_turn: Callable[[Turn], None] = lambda turn: None,
    ) -> None:
        self._number = number
        self._target = target
        self._recordings = recordings
        self._options = options
        self._tally = tally
        self._random = random
        self._on_turn = on_turn
        self._num_turns = 0

    async def run(self, until: float) -> None:
        """Speak until all turns are over, or until that time of the steady clock.

        Raises:
            StepAudioError: no session could be had.
        """
        while self._goes_on(until):
            started = time.monotonic()
            connection = await self._connect()
            self._tally.connects.append(time.monotonic() - started)
            try:
                await self._converse(connection, until)
            except ConnectionClosed as error:
                code = None if error.rcvd is None else error.rcvd.code
                self._tally.counts[f"lost connections ({code})"] += 1
            finally:
                await connection.close()

    def _goes_on(self, until: float) -> bool:
        turns = self._options.turns
        return time.monotonic() < until and (turns is None or self._num_turns < turns)

    async def _connect(self) -> ClientConnection:
        """Open a session; try again where there is no free one yet."""
        end = time.monotonic() + _RECONNECT_S
        url = self._target.realtime
        while True:
            try:
                return await connect(
                    url,
                    additional_headers=self._target.headers,
                    max_size=None,
                    open_timeout=self._options.answer_timeout_s,
                    # A busy server answers late, which is what is measured here.
                    ping_interval=None,
                    ssl=self._target.tls,
                    proxy=None,
                    compression=None,
                )
            except InvalidStatus as error:
                status = error.response.status_code
                if status not in _BUSY or time.monotonic() > end:
                    raise StepAudioError(_refusal(url, status)) from error
                self._tally.counts[f"refused ({status})"] += 1
                await asyncio.sleep(0.2)
            except (OSError, InvalidHandshake) as error:
                raise StepAudioError(f"{url}: no session ({error})") from error

    async def _converse(self, connection: ClientConnection, until: float) -> None:
        """Turns of one connection, until it is over or the client dies."""
        listener = Listener(self._tally.counts, keeps_sound=self._options.keeps_sound)
        microphone = Microphone(
            connection.send, self._tally.lags, silence_s=self._options.silence_s
        )
        hearing = asyncio.create_task(_hear(connection, listener))
        call = Call(connection, microphone, listener, hearing, self._options.answer_timeout_s)
        tasks = [hearing]
        try:
            session = {"type": "realtime", **self._options.session}
            await call.send("session.update", session=session)
            await call.wait(listener.configured)
            tasks.append(asyncio.create_task(microphone.run()))
            question: Question | None = None
            while self._goes_on(until):
                if question is None:
                    await self._between(call)
                    question = self._ask(call)
                question = await self._turn(call, question)
                if call.is_dead:
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _between(self, call: Call) -> None:
        """Before a question that interrupts nothing."""
        await asyncio.sleep(self._random.random() * self._options.pause_s)

    def _ask(self, call: Call) -> Question:
        utterance = call.microphone.say(self._random.choice(self._recordings))
        return Question(utterance, call.listener.expect())

    async def _turn(self, call: Call, question: Question) -> Question | None:
        """One turn; the next question, if it has interrupted the answer."""
        options, random = self._options, self._random
        utterance, answer = question.utterance, question.answer
        turn = Turn(self._number, self._num_turns, utterance.recording.name)
        self._num_turns += 1
        interrupts = random.random() < options.barge_in
        killer = None
        if random.random() < options.kill:
            self._tally.counts["killed clients"] += 1
            call.is_dead = True
            loop = asyncio.get_running_loop()
            killer = loop.call_later(random.uniform(0.0, 3.0), call.connection.transport.abort)
        try:
            await call.wait(utterance.ended)
            turn.ended_at = utterance.end_at
            in_time = await call.wait(answer.begun if interrupts else answer.done)
            turn.is_timeout = not in_time
            if interrupts and answer.first_at is not None and not call.is_dead:
                return await self._interrupt(call, answer)
            await asyncio.sleep(max(0.0, answer.player.ends_at - time.monotonic()))
            if call.is_dead:
                await call.wait(asyncio.Event())
        except ConnectionClosed:
            if not call.is_dead:
                raise
            turn.is_killed = True
        finally:
            if killer is not None:
                killer.cancel()
            answer.measure(turn)
            self._tally.turns.append(turn)
            self._on_turn(turn)
        return None

    async def _interrupt(self, call: Call, answer: Answer) -> Question:
        """Begin to speak while the answer is heard."""
        await asyncio.sleep(self._random.uniform(0.1, 1.0))
        utterance = call.microphone.say(self._random.choice(self._recordings))
        await call.wait(utterance.begun)
        answer.interrupt(utterance.onset_at)
        # Responses from now on answer what is being said; the old one is still watched.
        question = Question(utterance, call.listener.expect())
        if await call.wait(answer.told) and answer.item_id:
            played_ms = int(answer.player.played_ms(time.monotonic()))
            await call.send(
                "conversation.item.truncate",
                item_id=answer.item_id,
                content_index=0,
                audio_end_ms=played_ms,
            )
        await call.wait(utterance.ended)
        return question


async def _hear(connection: ClientConnection, listener: Listener) -> None:
    """Events of the server; raises ConnectionClosed at the end of the connection."""
    while True:
        listener.hear(json.loads(await connection.recv()), time.monotonic())


def _refusal(url: str, status: int) -> str:
    if status == 401:
        return f"{url}: wrong or no key; give --api-key-file"
    if status in _BUSY:
        return f"{url}: status {status}: no free session; ask for fewer, or raise --max-sessions"
    return f"{url}: refused with status {status}"
