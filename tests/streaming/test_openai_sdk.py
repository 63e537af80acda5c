"""The unchanged `openai` Python SDK against the server: realtime, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.streaming.scripted_engine import Line, ScriptedEngine
from tests.streaming.serving import Running, serving
from tests.streaming.sessions import pcm

KEY = "sk-test"


@pytest.fixture(scope="module")
def server() -> Any:
    with serving(api_keys=(KEY,)) as running:
        yield running


def sync_client(server: Running, key: str = KEY) -> OpenAI:
    return OpenAI(base_url=f"{server.http}/v1", api_key=key, max_retries=0, timeout=20)


def async_client(server: Running) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.http}/v1", api_key=KEY, max_retries=0, timeout=20)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_synchronous_client_talks(server: Running) -> None:
    with sync_client(server).realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(
            session={
                "type": "realtime",
                "instructions": "be brief",
                "audio": {"input": {"turn_detection": None}, "output": {"voice": "marin"}},
            }
        )
        connection.input_audio_buffer.append(audio=encoded(pcm(500, 5000)))
        connection.input_audio_buffer.commit()
        connection.response.create()
        sound, transcript, seen = b"", "", []
        for event in connection:
            seen.append(event.type)
            if event.type == "session.updated":
                assert event.session.type == "realtime"
                assert event.session.audio and event.session.audio.output
                assert event.session.audio.output.voice == "marin"
            elif event.type == "response.output_audio.delta":
                sound += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.delta":
                transcript += event.delta
            elif event.type == "response.done":
                assert event.response.usage and event.response.usage.total_tokens == 24
                break
        assert transcript == "Hello there." and len(sound) == 2 * 24 * 400
        assert seen[:2] == ["session.created", "session.updated"]
        assert "error" not in seen


def test_the_synchronous_client_handles_items(server: Running) -> None:
    with sync_client(server).realtime.connect(model="nano") as connection:
        content: Any = [{"type": "input_text", "text": "hi"}]
        item: Any = {"type": "message", "role": "user", "id": "mine", "content": content}
        connection.conversation.item.create(item=item)
        connection.conversation.item.retrieve(item_id="mine")
        connection.conversation.item.delete(item_id="mine")
        connection.conversation.item.retrieve(item_id="mine", event_id="again")
        seen = []
        for event in connection:
            seen.append(event.type)
            if event.type == "conversation.item.retrieved":
                assert event.item.type == "message" and event.item.id == "mine"
            elif event.type == "error":
                assert event.error.code == "item_retrieve_invalid_item_id"
                assert event.error.event_id == "again"
                break
        assert seen == [
            "session.created",
            "conversation.item.added",
            "conversation.item.done",
            "conversation.item.retrieved",
            "conversation.item.deleted",
            "error",
        ]


def test_the_asynchronous_client_talks_by_voice(server: Running) -> None:
    async def talk() -> tuple[list[str], bytes]:
        async with async_client(server).realtime.connect(model="gpt-realtime") as connection:
            await connection.session.update(
                session={
                    "type": "realtime",
                    "audio": {
                        "input": {
                            "transcription": {"model": "gpt-4o-mini-transcribe"},
                            "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
                        }
                    },
                }
            )
            for value in (0, 9000, 9000, 0, 0, 0, 0):
                await connection.input_audio_buffer.append(audio=encoded(pcm(200, value)))
            seen, sound = [], b""
            async for event in connection:
                seen.append(event.type)
                if event.type == "response.output_audio.delta":
                    sound += base64.b64decode(event.delta)
                if event.type == "response.done":
                    assert event.response.status == "completed"
                    return seen, sound
            raise AssertionError("the connection ended")

    seen, sound = asyncio.run(talk())
    assert "input_audio_buffer.speech_started" in seen
    assert "conversation.item.input_audio_transcription.completed" in seen
    assert np.abs(np.frombuffer(sound, "<i2")).max() > 9000


def test_the_asynchronous_client_interrupts_and_truncates() -> None:
    endless = Line(words=("word ",) * 10_000, word_ms=500, pace_s=0.01)

    async def talk(server: Running) -> None:
        async with async_client(server).realtime.connect(model="nano") as connection:
            await connection.response.create()
            item_id = ""
            async for event in connection:
                if event.type == "response.output_audio.delta" and not item_id:
                    item_id = event.item_id
                    audio = encoded(pcm(400, 9000))
                    await connection.input_audio_buffer.append(audio=audio)
                elif event.type == "response.done":
                    details = event.response.status_details
                    assert details and details.reason == "turn_detected"
                    await connection.conversation.item.truncate(
                        item_id=item_id, content_index=0, audio_end_ms=123
                    )
                elif event.type == "conversation.item.truncated":
                    assert event.audio_end_ms == 123
                    return
                assert event.type != "error"

    with serving(ScriptedEngine((endless,)), api_keys=(KEY,)) as server:
        asyncio.run(talk(server))


def test_a_function_call_is_answered_by_the_client() -> None:
    lines = (Line(call=("weather", '{"city":"Ulm"}')), Line(words=("Rain.",)))
    with serving(ScriptedEngine(lines), api_keys=(KEY,)) as server:
        with sync_client(server).realtime.connect(model="nano") as connection:
            tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
            connection.session.update(session={"type": "realtime", "tools": [tool]})
            connection.response.create()
            for event in connection:
                if event.type != "response.done":
                    continue
                assert event.response.output
                output = event.response.output[0]
                if output.type != "function_call":
                    assert output.type == "message"
                    assert output.content[0].transcript == "Rain."
                    break
                assert (output.name, output.arguments) == ("weather", '{"city":"Ulm"}')
                result: Any = {
                    "type": "function_call_output",
                    "call_id": output.call_id,
                    "output": "rain",
                }
                connection.conversation.item.create(item=result)
                connection.response.create()


def test_a_transcription_session(server: Running) -> None:
    with sync_client(server).realtime.connect(
        extra_query={"intent": "transcription"}
    ) as connection:
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"transcription": {"model": "whisper-1"}}},
            }
        )
        connection.input_audio_buffer.append(audio=encoded(pcm(400, 9000) + pcm(800, 0)))
        for event in connection:
            assert event.type != "error"
            if event.type == "conversation.item.input_audio_transcription.completed":
                assert event.transcript.endswith(" ms") and event.usage.type == "duration"
                break


def test_client_secrets(server: Running) -> None:
    secret = sync_client(server).realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 30},
        session={"type": "realtime", "instructions": "be kind"},
    )
    assert secret.value.startswith("ek_") and secret.session.type == "realtime"
    with sync_client(server, secret.value).realtime.connect(model="gpt-realtime") as connection:
        event = connection.recv()
        assert event.type == "session.created" and event.session.type == "realtime"
        assert event.session.instructions == "be kind"


def test_models_and_a_wrong_key(server: Running) -> None:
    client = sync_client(server)
    assert next(iter(client.models.list())).id == "nano"
    assert client.models.retrieve("gpt-realtime").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-2")
    with pytest.raises(openai.AuthenticationError):
        sync_client(server, "sk-wrong").models.list()
    # The SDK does not say more than that the handshake was refused.
    with pytest.raises(Exception, match="401"):
        sync_client(server, "sk-wrong").realtime.connect(model="nano").enter()


def test_over_tls(certificate: tuple[Path, Path]) -> None:
    import ssl

    trusted = ssl.create_default_context(cafile=str(certificate[0]))
    with serving(api_keys=(KEY,), certificate=certificate) as server:
        client = OpenAI(base_url=f"https://localhost:{server.port}/v1", api_key=KEY)
        options: Any = {"ssl": trusted}
        with client.realtime.connect(
            model="nano", websocket_connection_options=options
        ) as connection:
            assert connection.recv().type == "session.created"
