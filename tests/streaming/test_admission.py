"""Who is turned away for now, and how he learns of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.streaming.scripted_engine import ScriptedEngine
from tests.streaming.serving import Running, receive, serving

KEY = "sk-test"


def close_of(server: Running, **how: Any) -> tuple[int, str]:
    """Code and reason with which a page's connection is closed."""
    with server.connect(**how) as client, pytest.raises(ConnectionClosed) as caught:
        receive(client)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def test_pages_are_told_by_a_close_code_and_programs_by_a_status() -> None:
    with serving(max_sessions=1, api_keys=(KEY,)) as server:
        page: Any = {
            "origin": "https://example.org",
            "subprotocols": ["realtime", f"openai-insecure-api-key.{KEY}"],
        }
        with server.connect(additional_headers={"authorization": f"Bearer {KEY}"}) as client:
            receive(client)
            assert close_of(server, **page) == (1013, "All sessions are taken; try again soon.")
            with pytest.raises(InvalidStatus) as caught:
                server.connect(additional_headers={"authorization": f"Bearer {KEY}"})
            assert caught.value.response.status_code == 429
        # A wrong key is refused before the upgrade, whoever asks.
        page["subprotocols"] = ["realtime", "openai-insecure-api-key.wrong"]
        with pytest.raises(InvalidStatus) as caught:
            server.connect(**page)
        assert caught.value.response.status_code == 401
        text = httpx.get(f"{server.http}/metrics").text
        assert 'stepaudio_refused_sessions_total{reason="full"} 2' in text
        assert 'reason="key"} 1' in text


def test_nothing_that_needs_the_model_is_served_before_it_is_loaded() -> None:
    router = APIRouter()

    @router.get("/work")
    async def work() -> str:
        return "done"

    with serving(ScriptedEngine(ready=False), routers=[router]) as server:
        assert httpx.get(f"{server.http}/healthz").status_code == 200
        assert httpx.get(f"{server.http}/readyz").status_code == 503
        assert httpx.get(f"{server.http}/v1/models").json()["data"][0]["id"] == "nano"
        for response in (
            httpx.get(f"{server.http}/v1/work"),
            httpx.post(f"{server.http}/v1/realtime/client_secrets", json={}),
        ):
            assert response.status_code == 503 and response.headers["retry-after"]
            assert response.json()["error"]["code"] == "unavailable"
        with pytest.raises(InvalidStatus) as caught:
            server.connect()
        assert caught.value.response.status_code == 503
        assert close_of(server, origin=server.http)[0] == 1013
        server.engine.ready = True
        assert httpx.get(f"{server.http}/readyz").status_code == 200
        assert httpx.get(f"{server.http}/v1/work").json() == "done"
        with server.connect() as client:
            assert receive(client)["type"] == "session.created"
