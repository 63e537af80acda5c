"""Runs ``stepaudio`` in forks of one process that has its libraries: seconds faster a call.

    python forking.py

Reads a JSON object a line from standard input: ``args``, ``cwd``, ``env``, and the files that are
the command's ``stdin``, ``stdout`` and ``stderr``. Answers with the exit status, a line each.
"""

import importlib
import io
import json
import os
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
        child = os.fork()
        if not child:
            become(json.loads(line))
        _, state = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(state), flush=True)


if __name__ == "__main__":
    for module in NEEDED:
        importlib.import_module(module)
    serve()
