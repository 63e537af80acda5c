"""``stepaudio chat``, ``translate`` and ``caption`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.scripted import scripted_checkpoint
from tests.unit.conftest import tokenizer_definition
from tests.unit.tasks.conftest import CALLS, CODES, EOT, NEWLINE, SPEECH, TEXT, THOUGHT


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers "All fine" in text and "Hello world" in speech."""
    folder = tmp_path_factory.mktemp("checkpoints") / "mini"
    return scripted_checkpoint(folder, tokenizer_definition(adds_space=False), [TEXT, SPEECH])


@pytest.fixture(scope="module")
def question(examples: Path) -> Path:
    return examples / "digit_four.wav"


def test_spoken_question_gives_text_ids_and_codes(run: Command, mini: Path, question: Path) -> None:
    done = run("chat", "--model", mini, "--audio", question, "--json", "--seed", "3")
    assert (done.status, done.errors) == (0, [])
    (reply,) = done.objects
    assert reply["reply"] == "speech"
    assert reply["text"] == "Hello world"
    assert reply["audio_codes"] == CODES
    assert len(reply["text_ids"]) == 2
    assert reply["finish_reason"] == "stop"
    assert reply["stats"]["tokens"] == len(reply["ids"]) + 1
    assert reply["file"] == str(question)


def test_turns_from_standard_input(run: Command, mini: Path, question: Path) -> None:
    turns = f"Hi\n\n@{question}\n@no/such.wav\n".encode()
    done = run("chat", "--model", mini, stdin=turns)
    assert done.status == 1
    assert done.lines == ["All fine", "All fine"]
    assert done.errors == ["stepaudio: no/such.wav: no such file"]


def test_translate_and_caption(run: Command, mini: Path, question: Path) -> None:
    done = run("translate", question, "no.wav", "--model", mini, "--to", "en")
    assert done.status == 1
    assert done.lines == [f"{question}: All fine"]
    assert done.errors == ["stepaudio: no.wav: no such file"]
    done = run("translate", question, "--model", mini, "--speech")
    assert done.lines == ["Hello world", "[0.44 s of speech: 11 audio codes, see --json]"]
    done = run("caption", "--model", mini, "--detailed", "--json", question)
    assert done.objects[0]["text"] == "All fine"


def test_tools(run: Command, tmp_path: Path) -> None:
    folder = scripted_checkpoint(tmp_path / "mini", tokenizer_definition(adds_space=False), [CALLS])
    tools = tmp_path / "tools.json"
    schemas = [{"type": "function", "function": {"name": name}} for name in ("search", "clock")]
    tools.write_text(json.dumps(schemas))
    ask = ("chat", "--model", folder, "--text", "Rain?", "--reply", "speech", "--tools", tools)
    done = run(*ask, "--json", "--tool-result", "dry", "--tool-result", "noon")
    assert [reply["tool_calls"][1]["name"] for reply in done.objects] == ["clock", "clock"]
    assert done.objects[0]["tool_calls"][0]["arguments"] == {"query": "rain"}
    done = run(*ask, "--tool-result", "dry")
    assert done.status == 1
    assert done.lines[1] == '[calls search {"query": "rain"}]'
    assert done.errors == ["stepaudio: the model made 2 calls, but 1 results are left"]
    tools.write_text("{")
    done = run(*ask)
    assert done.status == 1
    assert "tools.json: no valid JSON" in done.errors[0]


def test_builtin_tools_are_run_but_not_forever(run: Command, tmp_path: Path) -> None:
    calls = (NEWLINE, "<tool_call>", 'functionĊtimerĊ{"duration":Ġ"five', 'Ġminutes"}')
    script = (*calls, "</tool_call>", EOT)
    dialogue = {"hearing": "transcript", "language": "en", "tools": "names"}
    folder = scripted_checkpoint(
        tmp_path / "mini", tokenizer_definition(adds_space=False), [script], dialogue=dialogue
    )
    done = run("chat", "--model", folder, "--text", "Set a timer for 5 minutes")
    assert (done.status, done.errors) == (0, [])
    assert done.lines == ['[calls timer {"duration": "five minutes"}]'] * 5
    done = run("chat", "--model", folder, "--text", "Hi", "--tools", "none")
    assert len(done.lines) > 1  # without tools a call is text
    assert "[calls" not in done.out.decode()
    done = run("chat", "--model", folder, "--text", "Hi", "--tool-result", "x")
    assert done.errors == ["stepaudio: --tool-result needs the tools: add --tools FILE"]


def test_silence_is_answered_without_the_model(run: Command, tmp_path: Path) -> None:
    import soundfile

    folder = scripted_checkpoint(
        tmp_path / "mini",
        tokenizer_definition(adds_space=False),
        [TEXT],
        dialogue={"hearing": "transcript", "not_understood": "pardon"},
    )
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, [0.0] * 16_000, 16_000)
    done = run("chat", "--model", folder, stdin=f"@{silence}\nHi\n".encode())
    assert done.lines == ["[heard: ]", "pardon", "All fine"]
    (reply,) = run("chat", "--model", folder, "--audio", silence, "--json").objects
    assert (reply["text"], reply["heard"], reply["confidence"]) == ("pardon", "", 0.0)


def test_variants(run: Command, tmp_path: Path, question: Path) -> None:
    definition = tokenizer_definition(adds_space=False)
    think = scripted_checkpoint(tmp_path / "mini-Think", definition, [THOUGHT, SPEECH])
    done = run("chat", "--model", think, "--audio", question, "--think", "--json")
    assert done.objects[0]["thought"] == "A child laughs"
    assert done.objects[0]["text"] == "Hello world"
    base = scripted_checkpoint(tmp_path / "other", definition, [SPEECH])
    model = ("--model", base, "--variant", "base")
    assert run("chat", *model, "--read-aloud", "Good day").lines[0] == "Hello world"
    assert run("translate", *model, "--text", "早", "--to", "ja").lines[0] == "Hello world"
    assert run("chat", *model, "--audio", question).lines[0] == "Hello world"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["translate", "x.wav"], 1, "nano has no mode 'translate'; it has asr, chat"),
        (["caption", "x.wav"], 1, "nano has no mode 'caption'; it has asr, chat"),
        (["chat", "--question", "Who?"], 2, "--question is about an audio"),
        (["chat", "--read-aloud", "a", "--text", "b"], 2, "do not go together"),
        (["chat", "--tool-result", "a", "--text", "b"], 2, "--tools FILE"),
        (["translate"], 2, "give either recordings or --text"),
        (["chat", "--text", "a", "--model", "no/such"], 1, "hf download no/such"),
        (["chat", "--text", "a", "--revision", "v2"], 1, "has no revision 'v2'"),
    ],
)
def test_bad_requests_are_one_line(
    run: Command, arguments: list[str], status: int, message: str
) -> None:
    done = run(*arguments)
    assert done.status == status
    assert done.out == b""
    assert len(done.errors) == 1
    assert message in done.errors[0]


def test_sampling_out_of_range(run: Command, mini: Path) -> None:
    done = run("chat", "--model", mini, "--text", "Hi", "--top-p", "2")
    assert (done.status, done.out) == (2, b"")
    assert "top_p must lie in (0, 1]" in done.errors[0]
