"""Runs ``stepaudio`` in forks of one process that has its libraries: seconds faster a call.

    python forking.py

Reads a JSON object a line from standard input: ``args``, ``cwd``, ``env``, ``timeout_s``, and the
files that are the command's ``stdin``, ``stdout`` and ``stderr``. Answers with the exit status, a
line each, or "hung": the command took longer and was killed, with all that it had started.
"""

import importlib
import io
import json
import os
import select
import signal
import sys
from typing import Any

from stepaudio.cli import main

# What the commands import when they begin to work. Nothing may start threads before a fork.
NEEDED = ("stepaudio.tasks.asr", "stepaudio.tasks.step_audio", "stepaudio.tasks.tts")


def become(order: dict[str, Any]) -> None:
    """Turn this process into the command that was ordered."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_WRONLY if descriptor else os.O_RDONLY
        opened = os.open(order[name], flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), "utf-8")
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8")
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", closefd=False),
        "utf-8",
        "backslashreplace",
        line_buffering=True,
    )
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["stepaudio", *order["args"]]
    sys.exit(main())


def serve() -> None:
    """Run commands until standard input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            become(order)
        os.setpgid(child, child)  # with all that it starts
        print(result(child, order["timeout_s"]), flush=True)


def result(child: int, timeout_s: float) -> int | str:
    """Wait until a child has ended; tell its exit status."""
    ended = os.pidfd_open(child)
    hangs = True
    try:
        hangs = not select.select([ended], [], [], timeout_s)[0]
    finally:
        os.close(ended)
        if hangs:
            os.killpg(child, signal.SIGKILL)
        _, state = os.waitpid(child, 0)
    return "hung" if hangs else os.waitstatus_to_exitcode(state)


if __name__ == "__main__":
    for module in NEEDED:
        importlib.import_module(module)
    serve()
