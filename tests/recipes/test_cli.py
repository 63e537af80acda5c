"""`stepaudio-train` as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from stepaudio_recipes.cli import main

COMMAND = Path(sys.executable).parent / "stepaudio-train"


def run(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120)


def test_list_and_show():
    listed = run("list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        "prepare",
        "tokenizer",
        "pretrain",
        "words",
        "mtp",
        "token2wav",
        "vocoder",
        "codec",
        "speech_pretrain",
        "code_reader",
        "speech_reward",
        "assemble",
    ]
    shown = run("show", "pretrain", "--config", "tiny")
    assert "recipe: pretrain" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "pretrain", "--config", "none"), "none: no such file, and no config of pretrain"),
        (("run", "pretrain", "data.sources.0.weigth=1"), "did you mean"),
        (("run", "pretrain", "--config", "tiny", "data.sources.0.weigth=1"), "did you mean"),
        (("run", "tokenizer", "data=no/such/folder"), "run the data preparation again"),
        (("run", "prepare"), "data: missing"),
    ],
)
def test_mistakes_give_one_line_and_no_traceback(arguments, message, capsys):
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_mistake_is_told_by_the_installed_command():
    result = run("run", "prepare")
    assert result.returncode == 1
    assert "data: missing" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
