"""Unchanged clients of others, each as a program of its own, against the server.

They run where they are installed: in the interpreter of the tests, or in the one that
STEPAUDIO_CLIENTS_PYTHON names; the Node clients where STEPAUDIO_CLIENTS_NODE names a folder with
their node_modules.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.streaming.scripted_engine import Line, ScriptedEngine
from tests.streaming.serving import serving

CLIENTS = Path(__file__).parent / "clients"
PYTHON = os.environ.get("STEPAUDIO_CLIENTS_PYTHON", sys.executable)
KEY = "sk-test"
# An answer, a function call and the answer to its result, an answer that is interrupted.
SCRIPT = (
    Line(words=("Hello", " there.")),
    # Clients need a moment to digest that they were interrupted.
    Line(call=("weather", '{"city": "Ulm"}'), delay_s=0.5),
    Line(words=("Rain", " in", " Ulm.")),
    Line(words=("word ",) * 10_000, word_ms=500, pace_s=0.01),
)


def run_client(program: str, module: str) -> dict[str, Any]:
    probe = [
        PYTHON,
        "-c",
        f"import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)",
    ]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip(f"needs the package {module}")
    with serving(ScriptedEngine(SCRIPT), api_keys=(KEY,)) as server:
        command = [PYTHON, str(CLIENTS / program), server.ws, KEY]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def run_node(program: str, address: str, certificate: tuple[Path, Path]) -> dict[str, Any]:
    """Run a Node client over TLS; `address` has the port in place of PORT."""
    modules = os.environ.get("STEPAUDIO_CLIENTS_NODE", "")
    if not (modules and shutil.which("node")):
        pytest.skip("needs node and the folder that STEPAUDIO_CLIENTS_NODE names")
    with serving(ScriptedEngine(SCRIPT), api_keys=(KEY,), certificate=certificate) as server:
        url = address.replace("PORT", str(server.port))
        command = ["node", str(CLIENTS / program), url, KEY, str(Path(modules, "node_modules"))]
        environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(certificate[0])}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=120, env=environment
        )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


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
    seen = run_client("agents_client.py", "agents")
    assert seen["errors"] == []
    assert seen["tools"] == ["rain in Ulm"]
    assert seen["audio_bytes"] >= 2 * 24 * 1000 and seen["interrupted"]
    texts = [text for part in seen["history"] for text in part]
    assert "Hello there." in texts and "Rain in Ulm." in texts
    # The transcript of what was said, which the client fetches with conversation.item.retrieve.
    assert any(str(text).endswith(" ms") for text in texts)


def test_livekit() -> None:
    seen = run_client("livekit_client.py", "livekit.plugins.openai")
    assert seen["errors"] == []
    assert seen["texts"][:2] == ["Hello there.", "Rain in Ulm."]
    assert seen["calls"] == ["rain in Ulm"] and seen["interrupted"]
    assert seen["audio_bytes"] >= 2 * 24 * 1000
    assert seen["transcripts"][0].endswith(" ms")


def test_pipecat() -> None:
    seen = run_client("pipecat_client.py", "pipecat")
    assert seen["errors"] == []
    assert seen["tools"] == ["Ulm"] and seen["interrupted"]
    assert "Hello there." in seen["text"] and "Rain in Ulm." in seen["text"]
    assert seen["audio_bytes"] >= 2 * 24 * 1000
