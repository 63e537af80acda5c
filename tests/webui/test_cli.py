"""The command ``stepaudio-webui``: arguments, plain errors, and that its page is up at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from stepaudio_webui.cli import build_parser, main
from stepaudio_webui.server_backend import ServerBackend


def test_help_needs_nothing_slow() -> None:
    code = (
        "import sys; from stepaudio_webui.cli import build_parser; build_parser().format_help()"
        "; assert not {'torch', 'gradio', 'fastapi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_is_built_without_torch() -> None:
    code = (
        "import sys; from stepaudio_webui.serve import local_server"
        "; from stepaudio_webui.local_backend import LocalBackend"
        "; from stepaudio_streaming.server.run import Address"
        "; local_server(LocalBackend('nano'), Address(port=0))"
        "; assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_arguments_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none\n")
    server = ["--server", "http://127.0.0.1:1"]
    for arguments, words in (
        ([*server, "--model", "nano"], "exclude each other"),
        (["--api-key-file", str(empty)], "key of a --server"),
        ([*server, "--api-key-file", str(empty)], "has no key"),
        (["--server", "gpu:8000", "--port", "0"], "expected an address"),
    ):
        assert main(arguments) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--port", "70000"])
    assert ended.value.code == 2


def test_a_model_that_is_not_there_leaves_the_page_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stepaudio_webui.cli", "--port", "0"]
    command += ["--model", str(tmp_path / "nothing")]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        found = (re.search(r"open (http://\S+)", line) for line in process.stderr)
        url = next(match.group(1) for match in found if match)
        with httpx.Client(base_url=url, timeout=60) as client:
            assert client.get("/").status_code == 200
            while (status := client.get("/voice/status").json())["state"] == "loading":
                time.sleep(0.1)
        assert status["state"] == status["chat"] == "failed"
        assert "nothing" in status["problem"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_server_that_is_not_there_is_told_in_plain_words() -> None:
    status = ServerBackend("http://127.0.0.1:1", "sk-secret").status()
    assert status.state == status.chat == "failed"
    assert "does not answer" in status.problem and "stepaudio-serve" in status.problem
    assert "sk-secret" not in repr(status)
