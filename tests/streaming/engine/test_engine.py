"""The engine's thread, with a scripted model and a real event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from stepaudio.errors import CapacityError, ConfigError, StepAudioError
from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.engine import Loaded, StreamingEngine, StreamingSession
from stepaudio_streaming.engine.mailbox import Inbox, Outbox
from stepaudio_streaming.engine.speaker import EngineSpeaker
from stepaudio_streaming.engine_api import EngineInfo
from stepaudio_streaming.events import (
    AppendAudio,
    CommitAudio,
    ContextItem,
    ContextPart,
    InsertItem,
    OutputAudio,
    OutputFinished,
    Respond,
    UserTranscript,
)
from stepaudio_streaming.http_api.services import SpeechRequest
from tests.streaming.engine.fakes import MANUAL, SPEAKER, WRITER, ScriptedModel

LIMIT_S = 20.0  # only a test that fails waits so long
INFO = EngineInfo(model="scripted", voices=("kathleen",))
QUESTION = InsertItem(ContextItem(item_id="q", kind="user", parts=(ContextPart("one two"),)), None)


def with_engine(
    use: Callable[[StreamingEngine, ScriptedModel], Awaitable[None]], max_sessions: int = 4
) -> None:
    model = ScriptedModel(phrase_codes=30)
    core = EngineCore(model, model, max_sessions=max_sessions)

    async def main() -> None:
        engine = StreamingEngine(lambda: Loaded(core, INFO), name="scripted")
        assert not engine.ready
        with pytest.raises(CapacityError):
            await engine.open_session(MANUAL)
        await asyncio.wrap_future(engine.start())
        assert engine.ready and engine.info is INFO
        try:
            async with asyncio.timeout(LIMIT_S):
                await use(engine, model)
        finally:
            await asyncio.to_thread(engine.stop)
        assert not engine.ready and core.num_sessions == 0

    asyncio.run(main())


async def answer(session: StreamingSession, response_id: str = "r") -> list[np.ndarray]:
    """Ask, and hear the answer to its end."""
    await session.send(QUESTION)
    await session.send(Respond(response_id=response_id, item_id="i", options=SPEAKER))
    sound = []
    async for event in session.events():
        if isinstance(event, OutputAudio):
            sound.append(event.samples)
        if isinstance(event, OutputFinished):
            assert event.status == "completed"
            return sound
    raise AssertionError("the session has ended")


def test_sessions_are_served_from_one_thread() -> None:
    threads = set()

    async def use(engine: StreamingEngine, model: ScriptedModel) -> None:
        plain = model.speak

        def watched(*args: object) -> object:
            threads.add(threading.current_thread().name)
            return plain(*args)  # type: ignore[arg-type]

        model.speak = watched  # type: ignore[method-assign, assignment]
        sessions = [await engine.open_session(MANUAL) for _ in range(3)]
        for sound in await asyncio.gather(*map(answer, sessions)):
            assert sum(map(len, sound)) == 30 * 960
        for session in sessions:
            await session.close()
            await session.close()

    with_engine(use)
    assert threads == {"stepaudio-engine"}


def test_slots_are_free_as_soon_as_a_session_is_closed() -> None:
    async def use(engine: StreamingEngine, model: ScriptedModel) -> None:
        session = await engine.open_session(MANUAL)
        with pytest.raises(CapacityError, match="all 1 sessions"):
            await engine.open_session(MANUAL)
        await session.close()
        await (await engine.open_session(MANUAL)).close()
        with pytest.raises(StepAudioError, match="closed"):
            await session.send(WRITER)  # type: ignore[arg-type]
        assert [event async for event in session.events()] == []

    with_engine(use, max_sessions=1)


def test_an_error_ends_one_session_only(caplog: pytest.LogCaptureFixture) -> None:
    async def use(engine: StreamingEngine, model: ScriptedModel) -> None:
        broken, other = [await engine.open_session(MANUAL) for _ in range(2)]
        await broken.send("nonsense")  # type: ignore[arg-type]
        with pytest.raises(StepAudioError, match="the session has failed: internal error"):
            async for _ in broken.events():
                pass
        assert await answer(other)

    with_engine(use)


def test_a_reader_that_stops_reading_holds_up_nobody_else() -> None:
    async def use(engine: StreamingEngine, model: ScriptedModel) -> None:
        slow, fast = [await engine.open_session(MANUAL) for _ in range(2)]
        loud = np.full(1600, 0.3, np.float32)

        async def flood() -> None:
            for number in range(400):
                await slow.send(AppendAudio(loud))
                await slow.send(CommitAudio(f"i{number}"))

        flooding = asyncio.create_task(flood())
        assert await answer(fast)
        await asyncio.wait({flooding}, timeout=0.2)
        assert not flooding.done()  # all queues behind it are full
        finals = 0
        async for event in slow.events():
            finals += isinstance(event, UserTranscript) and event.final
            if finals == 400:
                break
        await flooding

    with_engine(use)


def test_texts_of_the_http_endpoints_are_spoken() -> None:
    async def use(engine: StreamingEngine, model: ScriptedModel) -> None:
        speaker = EngineSpeaker(engine)
        assert speaker.voices == ("kathleen",)
        speech = await speaker.speak(SpeechRequest(text="read me", voice="kathleen"))
        assert sum([len(piece.samples) async for piece in speech.pieces]) == 30 * 960
        failing = await speaker.speak(SpeechRequest(text="unspeakable", voice="kathleen"))
        with pytest.raises(StepAudioError, match="nothing can be said"):
            await anext(failing.pieces)
        again = await speaker.speak(SpeechRequest(text="read me", voice="kathleen"))
        await anext(again.pieces)
        await again.pieces.aclose()  # the session of each is free again
        await (await engine.open_session(MANUAL)).close()

    with_engine(use, max_sessions=1)


def test_sessions_fail_when_the_engine_ends() -> None:
    async def main() -> None:
        model = ScriptedModel()
        core = EngineCore(model, model, max_sessions=1)
        engine = StreamingEngine(lambda: Loaded(core, INFO))
        await asyncio.wrap_future(engine.start())
        session = await engine.open_session(MANUAL)
        await asyncio.to_thread(engine.stop)
        with pytest.raises(StepAudioError, match="the engine has ended"):
            await anext(session.events())

    asyncio.run(main())


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_start() -> None:
    def load() -> Loaded:
        raise ConfigError("no such model")

    async def main() -> None:
        engine = StreamingEngine(load)
        with pytest.raises(ConfigError, match="no such model"):
            await asyncio.wrap_future(engine.start())
        assert not engine.ready
        engine.stop()

    asyncio.run(main())


def test_mailboxes_are_bounded_and_wake_their_readers() -> None:
    async def main() -> None:
        woken: list[int] = []
        inbox: Inbox[int] = Inbox(2, lambda: woken.append(1))
        for number in (1, 2):
            await inbox.put(number)
        third = asyncio.create_task(inbox.put(3))
        await asyncio.sleep(0)
        assert not third.done() and len(woken) == 2
        assert await asyncio.to_thread(inbox.get) == 1
        await asyncio.wait_for(third, LIMIT_S)
        assert [inbox.get(), inbox.get(), inbox.get()] == [2, 3, None]

        outbox: Outbox[int] = Outbox(2, lambda: woken.append(2))
        first = asyncio.create_task(outbox.get())
        await asyncio.sleep(0)
        await asyncio.to_thread(outbox.put, 1)
        assert await asyncio.wait_for(first, LIMIT_S) == 1
        outbox.put(2)
        outbox.put(3)
        assert outbox.is_full and woken[-1] == 1
        assert await outbox.get() == 2 and woken[-1] == 2
        outbox.close()
        assert await outbox.get() is None

    asyncio.run(main())
