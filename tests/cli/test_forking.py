"""Commands in forks, see `forking`: one that hangs ends its test, not all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_command_that_hangs_is_killed(run: Callable[..., Any], tmp_path: Path) -> None:
    never = tmp_path / "never.wav"
    os.mkfifo(never)
    with pytest.raises(
        pytest.fail.Exception, match=r"killed: stepaudio asr .*never.wav ran for 2 s"
    ):
        run("asr", never, timeout_s=2.0)
    with pytest.raises(OSError, match="No such device"):  # nobody reads it any more
        os.open(never, os.O_WRONLY | os.O_NONBLOCK)
    assert run("--help").status == 0
