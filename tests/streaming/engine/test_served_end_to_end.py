"""Unchanged clients and a checkpoint of the public shape, over a real socket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepaudio_streaming.engine.loading import EngineOptions, streaming_engine
from tests.streaming.engine.end_to_end import (
    loaded,
    random_checkpoint,
    speaking_script,
    spoken_script,
)
from tests.streaming.engine.test_served import check, client, served, speech, talk
from tests.streaming.serving import Running
from tests.streaming.sessions import kinds

OPTIONS = EngineOptions(num_slots=3, max_sessions=5, max_tokens=400)
TOOL: Any = {"type": "function", "name": "search", "parameters": {"type": "object"}}


def running(folder: Path) -> Iterator[Running]:
    model = loaded(folder)
    engine = streaming_engine(model, OPTIONS, name="nano")
    engine.start().result()
    try:
        with served(engine, model) as server:
            yield server
    finally:
        engine.stop()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Running]:
    """Answers with noise."""
    yield from running(random_checkpoint(tmp_path_factory.mktemp("noisy") / "mini"))


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Running]:
    """Says two words and calls a function."""
    call = ("<tool_call>", 'functionĊsearchĊ{"query":Ġ"rain"}', "</tool_call>")
    script = spoken_script(["Wait", "Ġplease"], *call)
    yield from running(speaking_script(tmp_path_factory.mktemp("scripted") / "mini", [script]))


async def ask(server: Running, text: str, **session: Any) -> list[dict[str, Any]]:
    """Write something; all events until the response is done."""
    events: list[dict[str, Any]] = []
    async with client(server).realtime.connect(model="nano") as connection:
        await connection.session.update(session={"type": "realtime", **session})
        await connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": text}],
            }
        )
        await connection.response.create()
        async for event in connection:
            events.append(event.model_dump())
            if event.type in ("response.done", "error"):
                return events
    raise AssertionError("the connection has ended")


def sound_of(events: list[dict[str, Any]]) -> bytes:
    deltas = [e["delta"] for e in events if e["type"] == "response.output_audio.delta"]
    return b"".join(map(base64.b64decode, deltas))


def test_spoken_turns_of_two_users_at_once(noisy: Running) -> None:
    async def both() -> list[dict[str, list[Any]]]:
        return list(await asyncio.gather(talk(noisy, speech()), talk(noisy, speech())))

    for seen in asyncio.run(both()):
        assert "input_audio_buffer.speech_started" in seen
        check(seen)


def test_an_answer_is_interrupted_and_the_next_one_comes(noisy: Running) -> None:
    seen = asyncio.run(talk(noisy, speech(), interrupt=True))
    statuses = [event.response.status for event in seen["response.done"]]
    assert statuses[-1] in ("completed", "incomplete") and len(statuses) == 2


def test_speech_then_a_call_in_the_order_of_the_protocol(scripted: Running) -> None:
    events = asyncio.run(ask(scripted, "rain?", tools=[TOOL]))
    order = [kind for kind in kinds(events) if kind.startswith("response.")]
    assert order[:4] == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
    ]
    assert order[-10:] == [
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.done",
    ]
    message, call = events[-1]["response"]["output"]
    assert message["content"][0]["transcript"] == "Wait please"
    assert (call["name"], call["arguments"]) == ("search", '{"query": "rain"}')
    usage = events[-1]["response"]["usage"]
    assert usage["output_token_details"]["audio_tokens"] == 8
    assert len(sound_of(events)) == 2 * 24_000 * 8 // 25


def test_many_sessions_say_what_one_alone_says(scripted: Running) -> None:
    alone = sound_of(asyncio.run(ask(scripted, "hello")))

    async def together() -> list[list[dict[str, Any]]]:
        return list(await asyncio.gather(*(ask(scripted, "hello") for _ in range(4))))

    for events in asyncio.run(together()):
        assert events[-1]["response"]["output"][0]["content"][0]["transcript"] == "Wait please"
        ours, theirs = (np.frombuffer(s, "<i2").astype(int) for s in (sound_of(events), alone))
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 64


def test_written_answers_and_calls_that_are_demanded(noisy: Running) -> None:
    written = asyncio.run(ask(noisy, "hello", output_modalities=["text"], max_output_tokens=20))
    assert written[-1]["response"]["status"] in ("completed", "incomplete")
    assert not sound_of(written)
    called = asyncio.run(
        ask(noisy, "hello", tools=[TOOL], tool_choice={"type": "function", "name": "search"})
    )
    (call,) = called[-1]["response"]["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "search", "{}")
    plain = asyncio.run(ask(noisy, "hello", tools=[TOOL], tool_choice="none", max_output_tokens=30))
    assert all(item["type"] == "message" for item in plain[-1]["response"]["output"])
