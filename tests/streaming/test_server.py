"""The gateway over real sockets, with a scripted engine behind it."""

from __future__ import annotations

import base64
import json
import logging
import socket
import subprocess
import sys
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stepaudio.errors import StepAudioError
from stepaudio_streaming.events import CancelResponse
from stepaudio_streaming.server.run import Address, listen
from tests.streaming.scripted_engine import Line, ScriptedEngine
from tests.streaming.serving import TIMEOUT_S, Running, receive, receive_until, send, serving
from tests.streaming.sessions import check_wire, kinds, pcm

KEY = "sk-right"
ENDLESS = Line(words=("word ",) * 100_000, word_ms=1000, pace_s=0.01)


@pytest.fixture(scope="module")
def server() -> Any:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Any:
    with serving(api_keys=("sk-other", KEY)) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def append(client: Any, data: bytes) -> None:
    send(client, "input_audio_buffer.append", audio=base64.b64encode(data).decode())


# ---- conversations -------------------------------------------------------------------------------


def test_a_spoken_conversation_with_server_vad(server: Running) -> None:
    with server.connect() as client:
        assert receive(client)["type"] == "session.created"
        session = {
            "type": "realtime",
            "audio": {"input": {"transcription": {"model": "whisper-1"}}},
        }
        send(client, "session.update", session=session)
        assert receive(client)["type"] == "session.updated"
        for value in (0, 9000, 9000, 9000, 0, 0, 0):
            append(client, pcm(200, value))
        events = receive_until(client, "response.done")
        for event in events:
            check_wire(event)
        order = kinds(events)
        for earlier, later in (
            ("input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"),
            ("input_audio_buffer.speech_stopped", "input_audio_buffer.committed"),
            ("input_audio_buffer.committed", "response.created"),
            ("response.created", "response.output_audio.delta"),
        ):
            assert order.index(earlier) < order.index(later)
        assert "conversation.item.input_audio_transcription.completed" in order
        sound = b"".join(
            base64.b64decode(event["delta"])
            for event in events
            if event["type"] == "response.output_audio.delta"
        )
        samples = np.frombuffer(sound, "<i2")
        assert len(samples) == 24 * 400 and np.abs(samples).max() > 9000
        assert events[-1]["response"]["output"][0]["content"][0]["transcript"] == "Hello there."


def test_a_tool_call_and_its_result() -> None:
    lines = (Line(call=("weather", '{"city":"Ulm"}')), Line(words=("Rain.",)))
    with serving(ScriptedEngine(lines)) as server, server.connect() as client:
        send(client, "response.create")
        events = receive_until(client, "response.done")
        call = events[-1]["response"]["output"][0]
        item = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        send(client, "conversation.item.create", item=item)
        send(client, "response.create")
        events = receive_until(client, "response.done")
        assert events[-1]["response"]["output"][0]["content"][0]["transcript"] == "Rain."


def test_the_user_interrupts_an_endless_answer() -> None:
    with serving(ScriptedEngine((ENDLESS,))) as server, server.connect() as client:
        send(client, "response.create")
        receive_until(client, "response.output_audio.delta")
        append(client, pcm(400, 9000))
        receive_until(client, "input_audio_buffer.speech_started")
        events = receive_until(client, "response.done")
        assert "response.output_audio.delta" not in kinds(events)
        assert events[-1]["response"]["status_details"]["reason"] == "turn_detected"
        # Nothing of it comes behind: the next event is the answer to the next message.
        send(client, "input_audio_buffer.clear")
        assert receive(client)["type"] == "input_audio_buffer.cleared"
        commands = server.engine.sessions[0].commands
        assert any(isinstance(command, CancelResponse) for command in commands)


def test_a_transcription_session(server: Running) -> None:
    with server.connect("?intent=transcription") as client:
        assert receive(client)["session"]["type"] == "transcription"
        append(client, pcm(300, 9000) + pcm(700, 0))
        events = receive_until(client, "conversation.item.input_audio_transcription.completed")
        assert not any(kind.startswith("response") for kind in kinds(events))


def test_the_idle_timeout_runs_on_the_servers_clock() -> None:
    detection = {"type": "server_vad", "idle_timeout_ms": 100}
    with serving(ScriptedEngine((Line(word_ms=20),))) as server, server.connect() as client:
        session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        send(client, "session.update", session=session)
        send(client, "response.create")
        receive_until(client, "response.done")
        receive_until(client, "input_audio_buffer.timeout_triggered")
        receive_until(client, "response.done")


def test_answers_to_nonsense_and_the_connection_stays(server: Running) -> None:
    with server.connect() as client:
        receive(client)
        client.send(b"\x00\x01binary")
        assert receive(client)["error"]["code"] == "invalid_frame"
        for message in ("", "{", "[]", '{"type":"x"}', json.dumps({"type": "session.update"})):
            client.send(message)
            assert receive(client)["type"] == "error"
        append(client, pcm(150))
        send(client, "input_audio_buffer.commit")
        assert receive(client)["type"] == "input_audio_buffer.committed"


def test_damaged_messages_get_an_answer_each_and_disturb_nobody(server: Running) -> None:
    rng = np.random.default_rng(0)
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    whole = [
        json.dumps(event).encode()
        for event in (
            {"type": "session.update", "session": {"type": "realtime", "instructions": "x"}},
            {"type": "conversation.item.create", "item": item, "event_id": "e"},
            {"type": "response.create", "response": {"conversation": "none"}},
        )
    ]
    with server.connect() as client, server.connect() as other:
        receive(client), receive(other)
        for number in range(300):
            damaged = bytearray(whole[number % len(whole)])
            for position in rng.integers(0, len(damaged), 2):
                damaged[position] = rng.integers(32, 127)
            client.send(damaged.decode())
        send(client, "conversation.item.retrieve", item_id="nobody", event_id="last")
        events = [receive(client)]
        while not (events[-1]["type"] == "error" and events[-1]["error"]["event_id"] == "last"):
            events.append(receive(client))
            check_wire(events[-1])
        assert sum(event["type"] == "error" for event in events) > 150
        send(other, "response.create")
        assert receive_until(other, "response.done")[-1]["response"]["status"] == "completed"


def test_fifteen_mebibytes_at_once_do_not_disturb_others(server: Running) -> None:
    with server.connect() as client, server.connect() as other:
        receive(client), receive(other)
        append(client, bytes(15 << 20))
        send(other, "response.create")
        receive_until(other, "response.done")
        append(client, bytes((15 << 20) + 3))
        assert receive(client)["error"]["code"] == "audio_too_large"
        send(client, "input_audio_buffer.commit")
        assert receive(client)["type"] == "input_audio_buffer.committed"


def test_a_gateway_process_needs_no_torch() -> None:
    code = "import sys, stepaudio_streaming.server.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- who comes in --------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, bearer("sk-wrong"), {"authorization": "Basic x"}])
def test_a_wrong_key_is_refused_before_the_upgrade(
    locked: Running, headers: dict[str, str]
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        locked.connect(additional_headers=headers)
    response = caught.value.response
    assert response.status_code == 401
    assert json.loads(response.body or b"")["error"]["code"] == "invalid_api_key"


def test_a_key_in_the_header(locked: Running) -> None:
    with locked.connect(additional_headers=bearer(KEY)) as client:
        assert receive(client)["type"] == "session.created"
        assert client.subprotocol is None


def test_a_key_in_the_sub_protocols_of_a_browser(locked: Running) -> None:
    offered: Any = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-agents-sdk.0.20"]
    with locked.connect(subprotocols=offered, origin="https://example.org") as client:
        assert client.subprotocol == "realtime"
        assert receive(client)["type"] == "session.created"


def test_an_ephemeral_key_brings_its_session(locked: Running) -> None:
    body = {
        "expires_after": {"anchor": "created_at", "seconds": 60},
        "session": {"type": "realtime", "instructions": "be kind", "output_modalities": ["text"]},
    }
    url = f"{locked.http}/v1/realtime/client_secrets"
    assert httpx.post(url, json=body).status_code == 401
    answer = httpx.post(url, json=body, headers=bearer(KEY)).json()
    assert answer["value"].startswith("ek_")
    assert answer["session"]["object"] == "realtime.session" and answer["session"]["id"]
    offered: Any = ["realtime", f"openai-insecure-api-key.{answer['value']}"]
    for _ in range(2):
        with locked.connect("?model=gpt-realtime", subprotocols=offered) as client:
            session = receive(client)["session"]
            assert session["instructions"] == "be kind"
            assert session["output_modalities"] == ["text"]
    # It opens sessions and nothing else.
    assert httpx.post(url, json=body, headers=bearer(answer["value"])).status_code == 401
    assert httpx.get(f"{locked.http}/v1/models", headers=bearer(answer["value"])).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"session": {"type": "realtime", "colour": "red"}},
        {"expires_after": {"anchor": "created_at", "seconds": 5}},
        {"mood": 1},
        [],
    ],
)
def test_secrets_that_cannot_be_minted(server: Running, body: Any) -> None:
    response = httpx.post(f"{server.http}/v1/realtime/client_secrets", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_foreign_page_does_not_get_in_where_no_key_is_needed(server: Running) -> None:
    with pytest.raises(InvalidStatus):
        server.connect(origin="https://evil.example")
    with server.connect(origin=server.http) as client:
        assert receive(client)["type"] == "session.created"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?model=gpt-2", 404),
        ("?intent=singing", 400),
        ("?model=nano&intent=transcription", 400),
        ("?call_id=rtc_1", 400),
    ],
)
def test_addresses_that_are_refused(server: Running, query: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as caught:
        server.connect(query)
    assert caught.value.response.status_code == status


@pytest.mark.parametrize(
    "name", ["gpt-realtime", "gpt-realtime-2.1-mini", "gpt-4o-realtime-preview"]
)
def test_stock_models_are_served(server: Running, name: str) -> None:
    with server.connect(f"?model={name}") as client:
        assert receive(client)["session"]["model"] == name


# ---- limits and faults ---------------------------------------------------------------------------


def wait_for_slots(engine: ScriptedEngine, num_open: int) -> None:
    """Wait until that many slots are taken; a test's own timeout, no gate on speed."""
    done = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.01)):
        if engine.num_open == num_open:
            return
        done.wait(0.01)
    raise AssertionError(f"{engine.num_open} slots are taken, expected {num_open}")


@pytest.mark.parametrize("who", ["server", "engine"])
def test_more_sessions_than_allowed_are_refused(who: str) -> None:
    engine = ScriptedEngine(max_sessions=1 if who == "engine" else 9)
    with serving(engine, max_sessions=9 if who == "engine" else 1) as server:
        with server.connect() as client:
            receive(client)
            with pytest.raises(InvalidStatus) as caught:
                server.connect()
            assert caught.value.response.status_code == 429
            assert caught.value.response.headers["retry-after"]
        wait_for_slots(engine, 0)
        with server.connect() as client:
            receive(client)


def test_a_killed_client_frees_its_slot() -> None:
    engine = ScriptedEngine((ENDLESS,))
    with serving(engine) as server:
        client = server.connect()
        send(client, "response.create")
        receive_until(client, "response.output_audio.delta")
        client.socket.shutdown(socket.SHUT_RDWR)
        wait_for_slots(engine, 0)


def test_a_client_that_does_not_read_loses_its_session_and_no_other() -> None:
    engine = ScriptedEngine((Line(words=("word ",) * 1_000_000, word_ms=2000),))
    limits = {"send_timeout_s": 0.5, "max_outgoing_bytes": 4 << 20}
    with serving(engine, **limits) as server, server.connect() as other:
        receive(other)
        sleeper = socket.create_connection(("127.0.0.1", server.port))
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.sendall(
            b"GET /v1/realtime?model=nano HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert sleeper.recv(12) == b"HTTP/1.1 101"
        body = b'{"type":"response.create"}'
        sleeper.sendall(bytes([0x81, 0x80 | len(body)]) + bytes(4) + body)
        wait_for_slots(engine, 2)
        wait_for_slots(engine, 1)
        append(other, pcm(150))
        send(other, "input_audio_buffer.commit")
        assert receive(other)["type"] == "input_audio_buffer.committed"
        sleeper.close()


def test_connections_notice_that_the_other_machine_is_gone() -> None:
    with listen(Address(port=0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        with client, connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                timeout_ms = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert timeout_ms == 5000


def test_a_broken_engine_ends_the_session_with_a_reason() -> None:
    engine = ScriptedEngine(break_with=StepAudioError("the model is gone"))
    with serving(engine) as server, server.connect() as client:
        receive(client)
        append(client, pcm(100))
        error = receive(client)["error"]
        assert (error["type"], error["message"]) == ("server_error", "the model is gone")
        with pytest.raises(ConnectionClosed) as caught:
            receive(client)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1011
        wait_for_slots(engine, 0)


def test_a_bug_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine(break_with=RuntimeError("secret detail"))
    with serving(engine) as server, server.connect() as client:
        receive(client)
        append(client, pcm(100))
        assert "secret detail" not in receive(client)["error"]["message"]
        with pytest.raises(ConnectionClosed):
            receive(client)
    assert any(record.exc_info for record in caplog.records)


def test_a_session_ends_after_its_time() -> None:
    with serving(max_session_s=0.2) as server, server.connect() as client:
        assert receive(client)["session"]["expires_at"]
        assert receive(client)["error"]["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as caught:
            receive(client)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1001


def test_a_server_that_ends_lets_the_answer_finish() -> None:
    engine = ScriptedEngine((Line(words=("a", "b", "c", "d"), pace_s=0.1),))
    with serving(engine) as server, server.connect() as client, server.connect() as idle:
        receive(idle)
        send(client, "response.create")
        receive_until(client, "response.output_audio.delta")
        server.server.should_exit = True
        assert receive_until(client, "response.done")[-1]["response"]["status"] == "completed"
        for one in (client, idle):
            with pytest.raises(ConnectionClosed) as caught:
                receive(one)
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 1001
        server.thread.join(TIMEOUT_S)
        assert not server.thread.is_alive()


def test_a_server_does_not_wait_for_ever_for_an_answer() -> None:
    with serving(ScriptedEngine((ENDLESS,)), drain_timeout_s=0.3) as server:
        with server.connect() as client:
            send(client, "response.create")
            receive_until(client, "response.output_audio.delta")
            server.server.should_exit = True
            with pytest.raises(ConnectionClosed):
                receive_until(client, "response.done")


# ---- HTTP ----------------------------------------------------------------------------------------


def test_health_needs_no_key(locked: Running) -> None:
    assert httpx.get(f"{locked.http}/healthz").text == "ok"
    assert httpx.get(f"{locked.http}/readyz").status_code == 200
    locked.engine.ready = False
    try:
        assert httpx.get(f"{locked.http}/readyz").status_code == 503
        with pytest.raises(InvalidStatus) as caught:
            locked.connect(additional_headers=bearer(KEY))
        assert caught.value.response.status_code == 503
    finally:
        locked.engine.ready = True


def test_models(server: Running) -> None:
    listed = httpx.get(f"{server.http}/v1/models").json()
    assert listed["object"] == "list" and listed["data"][0]["id"] == "nano"
    one = httpx.get(f"{server.http}/v1/models/nano").json()
    assert one == listed["data"][0] and isinstance(one["created"], int)
    missing = httpx.get(f"{server.http}/v1/models/gpt-2")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_errors_have_the_form_of_the_openai_api(locked: Running) -> None:
    for response, status in (
        (httpx.get(f"{locked.http}/v1/models"), 401),
        (httpx.get(f"{locked.http}/v1/nothing", headers=bearer(KEY)), 404),
        (httpx.put(f"{locked.http}/v1/models", headers=bearer(KEY)), 405),
        (
            httpx.post(
                f"{locked.http}/v1/realtime/client_secrets", content=b"{", headers=bearer(KEY)
            ),
            400,
        ),
    ):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("announced", [True, False])
def test_large_bodies_are_refused(announced: bool) -> None:
    with serving(max_json_bytes=1000) as server:
        body = b"x" * 5000
        content = body if announced else iter([body[:2000], body[2000:]])
        response = httpx.post(f"{server.http}/v1/realtime/client_secrets", content=content)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "content_too_large"


def test_pages_of_allowed_origins_may_ask() -> None:
    with serving(cors_origins=("https://app.example",)) as server:
        headers = {"origin": "https://app.example"}
        response = httpx.get(f"{server.http}/v1/models", headers=headers)
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        response = httpx.get(f"{server.http}/v1/models", headers={"origin": "https://x.example"})
        assert "access-control-allow-origin" not in response.headers
        with server.connect(origin="https://app.example") as client:
            receive(client)


def test_metrics_count_what_happened() -> None:
    with serving(api_keys=(KEY,)) as server:
        with pytest.raises(InvalidStatus):
            server.connect()
        with server.connect(additional_headers=bearer(KEY)) as client:
            send(client, "response.create")
            receive_until(client, "response.done")
            text = httpx.get(f"{server.http}/metrics").text
        lines = text.splitlines()
        assert "stepaudio_sessions_active 1" in lines
        assert 'stepaudio_refused_sessions_total{reason="key"} 1' in lines
        assert 'stepaudio_responses_total{status="completed"} 1' in lines
        assert "stepaudio_first_audio_seconds_count 1" in lines
        assert f"stepaudio_audio_out_bytes_total {2 * 24 * 400}" in lines
        assert "# TYPE process_cpu_seconds_total counter" in lines


def test_keys_and_speech_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving(api_keys=(KEY,)) as server:
        with server.connect(additional_headers=bearer(KEY)) as client:
            send(client, "response.create", response={"instructions": "say pineapple"})
            receive_until(client, "response.done")
        httpx.get(f"{server.http}/v1/models", headers=bearer("sk-pineapple"))
    logged = caplog.text
    assert KEY not in logged and "pineapple" not in logged and "Hello there" not in logged
