"""Unchanged clients of others, each as a program of its own, against the server.

`.ci/clients` installs them into .clients. STEPAUDIO_CLIENTS_PYTHON and STEPAUDIO_CLIENTS_NODE name
another interpreter, and another folder with node_modules; what they name must be there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.streaming.scripted_engine import Line, ScriptedEngine
from tests.streaming.serving import serving

CLIENTS = Path(__file__).parent / "clients"
INSTALLED = Path(__file__).parents[2] / ".clients"
PYTHON = os.environ.get("STEPAUDIO_CLIENTS_PYTHON", str(INSTALLED / "python/bin/python"))
NODE = Path(os.environ.get("STEPAUDIO_CLIENTS_NODE", str(INSTALLED / "node")))
KEY = "sk-test"
# An answer, a function call and the answer to its result, an answer that is interrupted.
SCRIPT = (
    Line(words=("Hello", " there.")),
    # Clients need a moment to digest that they were interrupted.
    Line(call=("weather", '{"city": "Ulm"}'), delay_s=0.5),
    Line(words=("Rain", " in", " Ulm.")),
    Line(words=("word ",) * 10_000, word_ms=500, pace_s=0.01),
)


def is_installed(path: Path, variable: str) -> bool:
    """What a variable names must be there; otherwise it may be missing."""
    return path.exists() or variable in os.environ


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def run_client(program: str) -> dict[str, Any]:
    if not is_installed(Path(PYTHON), "STEPAUDIO_CLIENTS_PYTHON"):
        pytest.skip("needs what .ci/clients installs")
    with serving(ScriptedEngine(SCRIPT), api_keys=(KEY,)) as server:
        command = [PYTHON, str(CLIENTS / program), server.ws, KEY]
        return last_line(
            subprocess.run(command, check=False, capture_output=True, text=True, timeout=180)
        )


def run_node(program: str, address: str, certificate: tuple[Path, Path]) -> dict[str, Any]:
    """Run a Node client over TLS; `address` has the port in place of PORT."""
    if not is_installed(NODE, "STEPAUDIO_CLIENTS_NODE"):
        pytest.skip("needs what .ci/clients installs")
    own = NODE / "bin" / "node"
    node = str(own) if own.exists() else "node"
    with serving(ScriptedEngine(SCRIPT), api_keys=(KEY,), certificate=certificate) as server:
        url = address.replace("PORT", str(server.port))
        command = [node, str(CLIENTS / program), url, KEY, str(NODE / "node_modules")]
        environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(certificate[0])}
        return last_line(
            subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=180, env=environment
            )
        )


def test_npm_openai_over_tls(certificate: tuple[Path, Path]) -> None:
    seen = run_node("openai_client.mjs", "https://localhost:PORT/v1", certificate)
    assert seen["errors"] == [] and seen["models"] == ["nano"]
    assert seen["tools"] == ['{"city": "Ulm"}']
    assert seen["transcripts"] == ["Hello there.", "Rain in Ulm."]
    assert seen["audioBytes"] == 2 * 24 * 1000
    assert seen["events"][:2] == ["session.created", "session.updated"]


def test_npm_agents_realtime_over_tls(certificate: tuple[Path, Path]) -> None:
    address = "wss://localhost:PORT/v1/realtime?model=gpt-realtime"
    seen = run_node("agents_client.mjs", address, certificate)
    assert seen["errors"] == [] and seen["tools"] == ["rain in Ulm"]
    assert seen["audioBytes"] >= 2 * 24 * 1000 and seen["interrupted"] and seen["usage"] > 0
    texts = [text for part in seen["history"] for text in part]
    assert "Hello there." in texts and "Rain in Ulm." in texts
    assert any(str(text).endswith(" ms") for text in texts)


def test_openai_agents() -> None:
    seen = run_client("agents_client.py")
    assert seen["errors"] == []
    assert seen["tools"] == ["rain in Ulm"]
    assert seen["audio_bytes"] >= 2 * 24 * 1000 and seen["interrupted"]
    texts = [text for part in seen["history"] for text in part]
    assert "Hello there." in texts and "Rain in Ulm." in texts
    # The transcript of what was said, which the client fetches with conversation.item.retrieve.
    assert any(str(text).endswith(" ms") for text in texts)


def test_livekit() -> None:
    seen = run_client("livekit_client.py")
    assert seen["errors"] == []
    assert seen["texts"][:2] == ["Hello there.", "Rain in Ulm."]
    assert seen["calls"] == ["rain in Ulm"] and seen["interrupted"]
    assert seen["audio_bytes"] >= 2 * 24 * 1000
    assert seen["transcripts"][0].endswith(" ms")


def test_pipecat() -> None:
    seen = run_client("pipecat_client.py")
    assert seen["errors"] == []
    assert seen["tools"] == ["Ulm"] and seen["interrupted"]
    assert "Hello there." in seen["text"] and "Rain in Ulm." in seen["text"]
    assert seen["audio_bytes"] >= 2 * 24 * 1000
