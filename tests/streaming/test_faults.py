"""What goes wrong outside: clients that leave, lie or flood; and what is left in the logs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed

from stepaudio.errors import AudioLoadError
from stepaudio_streaming.engine_api import EngineSession
from stepaudio_streaming.events import Configure
from stepaudio_streaming.http_api.limits import limited_duration_s
from tests.streaming.fuzz import MessageFuzzer
from tests.streaming.scripted_engine import Line, ScriptedEngine
from tests.streaming.serving import Running, receive, receive_until, send, serving
from tests.streaming.sessions import check_wire, pcm
from tests.streaming.test_server import KEY, append, bearer, wait_for_slots

SECRETS = ("pineapple", KEY, "sk-wrong-1", "ek_")  # what a log must not hold


class Records(logging.Handler):
    """Keeps everything that is logged, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str]] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("httpx", "httpcore")):  # the client of these tests
            self.lines.append((record.levelno, self.format(record)))

    def above_debug(self) -> str:
        return "\n".join(text for level, text in self.lines if level > logging.DEBUG)


@contextmanager
def recorded() -> Iterator[Records]:
    """Log of the server: uvicorn's loggers do not propagate to the root."""
    records = Records()
    loggers = [logging.getLogger(name) for name in ("", "uvicorn")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(records)
        logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(records)
            logger.setLevel(level)


def handshake(server: Running) -> socket.socket:
    """A bare socket that has asked for a session."""
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(
        b"GET /v1/realtime?model=nano HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    return client


def say(client: socket.socket, text: str) -> None:
    """Send a short text frame."""
    body = text.encode()
    assert len(body) < 126
    client.sendall(bytes([0x81, 0x80 | len(body)]) + bytes(4) + body)


def reset(client: socket.socket) -> None:
    """End a connection as a machine does that crashes."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# ---- connections ---------------------------------------------------------------------------------


class SlowEngine(ScriptedEngine):
    async def open_session(self, settings: Configure) -> EngineSession:
        await asyncio.sleep(0.3)
        return await super().open_session(settings)


def test_clients_that_leave_before_their_session_begins_leave_nothing_behind() -> None:
    engine = SlowEngine()
    with recorded() as log, serving(engine) as server:
        for client in [handshake(server) for _ in range(5)]:
            reset(client)
        with server.connect() as client_:
            assert receive(client_)["type"] == "session.created"
        wait_for_slots(engine, 0)
    assert "Traceback" not in log.above_debug() and "ERROR" not in log.above_debug()


def test_refusals_are_no_errors_of_the_server() -> None:
    with recorded() as log, serving(api_keys=(KEY,)) as server:
        for _ in range(3):
            client = handshake(server)
            assert client.recv(12) == b"HTTP/1.1 401"
            client.close()
    assert "handshake" not in log.above_debug()


def test_killed_clients_free_their_slots_again_and_again() -> None:
    engine = ScriptedEngine((Line(words=("word ",) * 100_000, pace_s=0.01),), max_sessions=2)
    with serving(engine, max_sessions=2) as server, server.connect() as other:
        receive(other)
        for _ in range(20):
            client = handshake(server)
            assert client.recv(12) == b"HTTP/1.1 101"
            say(client, '{"type":"response.create"}')
            wait_for_slots(engine, 2)
            reset(client)
            wait_for_slots(engine, 1)
        send(other, "input_audio_buffer.clear")
        assert receive(other)["type"] == "input_audio_buffer.cleared"


# ---- messages ------------------------------------------------------------------------------------


def test_a_few_thousand_fuzzed_messages_over_a_socket() -> None:
    """`benchmarks/realtime_fuzz.py` sends 64 k of them."""
    with recorded() as log, serving() as server:
        with server.connect() as client, server.connect() as other:
            receive(client), receive(other)
            fuzzer = MessageFuzzer(seed=7)
            for number in range(40):
                for message in fuzzer.batch(50):
                    client.send(message)
                send(client, "conversation.item.retrieve", item_id="-", event_id=f"end-{number}")
                for event in read_to_marker(client, f"end-{number}"):
                    check_wire(event)
            send(other, "response.create")
            assert receive_until(other, "response.done")[-1]["response"]["status"] == "completed"
    assert "Traceback" not in log.above_debug()


def read_to_marker(client: Any, event_id: str) -> list[dict[str, Any]]:
    events = [receive(client)]
    while events[-1]["type"] != "error" or events[-1]["error"]["event_id"] != event_id:
        events.append(receive(client))
    return events


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ('{"type": NaN}', "invalid_json"),
        ("[" * 50_000, "invalid_json"),
        ('"hello"', "invalid_type"),
        ('{"type": "nothing.known"}', "invalid_value"),
        ('{"type": 7}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": 5}', None),
        ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA", "rate": 1}', None),
        ('{"type": "conversation.item.truncate", "item_id": "x", "content_index": -1}', None),
        ('{"type": "response.create", "response": {"nothing": 1}}', None),
    ],
)
def test_every_wrong_message_gets_one_error(
    module_server: Running, message: str, code: str | None
) -> None:
    with module_server.connect() as client:
        receive(client)
        client.send(message)
        error = receive(client)
        assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
        assert code is None or error["error"]["code"] == code
        assert "Traceback" not in error["error"]["message"]
        # One and not two, and the connection is open.
        send(client, "input_audio_buffer.clear")
        assert receive(client)["type"] == "input_audio_buffer.cleared"


def test_other_sample_rates_are_errors_and_change_nothing(module_server: Running) -> None:
    with module_server.connect() as client:
        before = receive(client)["session"]["audio"]
        for audio_format in (
            {"type": "audio/pcm", "rate": 16_000},
            {"type": "audio/pcmu", "rate": 24_000},
            {"type": "audio/mp3"},
        ):
            for side in ("input", "output"):
                session = {"type": "realtime", "audio": {side: {"format": audio_format}}}
                send(client, "session.update", session=session)
                assert receive(client)["type"] == "error"
        send(client, "session.update", session={"type": "realtime"})
        assert receive(client)["session"]["audio"] == before


def test_samples_that_were_split_between_appends_are_joined(module_server: Running) -> None:
    with module_server.connect() as client:
        session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        send(client, "session.update", session=session)
        receive_until(client, "session.updated")
        sound = np.arange(7200, dtype="<i2").tobytes()
        for start in range(0, len(sound), 777):
            append(client, sound[start : start + 777])
        send(client, "input_audio_buffer.commit")
        item_id = receive_until(client, "conversation.item.done")[-1]["item"]["id"]
        send(client, "conversation.item.retrieve", item_id=item_id)
        item = receive_until(client, "conversation.item.retrieved")[-1]["item"]
        assert base64.b64decode(item["content"][0]["audio"]) == sound


def test_frames_beyond_every_limit_end_that_session_only(module_server: Running) -> None:
    with module_server.connect() as client, module_server.connect() as other:
        receive(client), receive(other)
        # With code 1009, if the rest of the frame does not make the kernel reset the connection.
        with pytest.raises(ConnectionClosed):
            client.send("x" * (25 << 20))
            while True:
                receive(client)
        send(other, "input_audio_buffer.clear")
        assert receive(other)["type"] == "input_audio_buffer.cleared"


@pytest.fixture(scope="module")
def module_server() -> Iterator[Running]:
    with serving() as running:
        yield running


# ---- logs ----------------------------------------------------------------------------------------


def test_no_key_and_nothing_that_anybody_said_is_logged() -> None:
    engine = ScriptedEngine((Line(words=("pineapple",)), Line(error="it broke")))
    with recorded() as log, serving(engine, api_keys=(KEY,)) as server:
        secret = httpx.post(f"{server.http}/v1/realtime/client_secrets", headers=bearer(KEY))
        value = secret.json()["value"]
        protocols: Any = ["realtime", f"openai-insecure-api-key.{value}"]
        for how in (
            {"additional_headers": bearer(KEY)},
            {"subprotocols": protocols},
        ):
            with server.connect(**how) as client:
                item = {"type": "message", "role": "user"}
                content = [{"type": "input_text", "text": "pineapple"}]
                send(client, "conversation.item.create", item={**item, "content": content})
                client.send('{"type": "pineapple')
                send(client, "pineapple", pineapple="pineapple")
                append(client, pcm(300, 9000))
                for _ in range(2):
                    send(client, "response.create", response={"instructions": "pineapple"})
                    receive_until(client, "response.done", "error")
        with pytest.raises(Exception, match="401"):
            server.connect(additional_headers=bearer("sk-wrong-1"))
        httpx.get(f"{server.http}/v1/models?pineapple", headers=bearer("sk-wrong-1"))
        httpx.post(
            f"{server.http}/v1/realtime/client_secrets",
            content=json.dumps({"pineapple": 1}),
            headers=bearer(KEY),
        )
    shown = log.above_debug()
    for secret_text in (*SECRETS, value):
        assert secret_text not in shown, shown


# ---- uploads -------------------------------------------------------------------------------------


def test_uploads_beyond_the_limit_get_413() -> None:
    with serving(routers=[]) as server:
        file = io.BytesIO(bytes(27_000_000))
        response = httpx.post(
            f"{server.http}/v1/audio/transcriptions",
            files={"file": ("a.wav", file)},
            data={"model": "nano"},
            timeout=60,
        )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "content_too_large"


def flac(seconds: float, *, tells_length: bool) -> bytes:
    """Silence, small however long; written to a pipe it does not say how long it is."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(16_000 * seconds), np.float32), 16_000, format="FLAC")
    data = bytearray(file.getvalue())
    if not tells_length:
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    return bytes(data)


@pytest.mark.parametrize("tells_length", [True, False])
def test_recordings_are_decoded_within_limits(tells_length: bool) -> None:
    audio = flac(30, tells_length=tells_length)
    assert len(audio) < 50_000
    assert limited_duration_s(audio, name="a.flac", max_s=31) == pytest.approx(30)
    with pytest.raises(AudioLoadError, match=r"a\.flac: longer than the limit of 20 s"):
        limited_duration_s(audio, name="a.flac", max_s=20)


def test_slow_decoding_ends() -> None:
    seconds = iter(range(0, 1000, 10))
    with pytest.raises(AudioLoadError, match="more than 5 s to decode"):
        limited_duration_s(
            flac(30, tells_length=False),
            name="a.flac",
            max_s=60,
            max_work_s=5,
            clock=lambda: next(seconds),
        )
