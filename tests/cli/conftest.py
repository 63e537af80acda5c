"""The installed command, and a small random model that it can load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

STEPAUDIO = Path(sys.executable).parent / "stepaudio"
TIMEOUT_S = 300
_WORDS = "the quick brown fox jumps over a lazy dog while seven wizards hum very odd jazz tunes"


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status and output, as bytes and as lines."""

    status: int
    out: bytes
    err: bytes

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()

    @property
    def errors(self) -> list[str]:
        return self.err.decode().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


Command = Callable[..., Finished]


def stepaudio(
    *arguments: str | Path,
    stdin: bytes | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run the installed command."""
    done = subprocess.run(
        [STEPAUDIO, *map(str, arguments)],
        input=b"" if stdin is None else stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def run_installed() -> Command:
    """Run ``stepaudio`` with these arguments, as a user would."""
    return stepaudio


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The same in a fork of a process that has imported the libraries, see `forking`."""
    folder = tmp_path_factory.mktemp("forked")
    files = {name: folder / name for name in ("stdin", "stdout", "stderr")}
    command = [sys.executable, Path(__file__).with_name("forking.py")]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as server:

        def forked(
            *arguments: str | Path,
            stdin: bytes | None = None,
            cwd: Path | None = None,
            timeout_s: float = TIMEOUT_S,
        ) -> Finished:
            contents = (stdin or b"", b"", b"")
            for path, content in zip(files.values(), contents, strict=True):
                path.write_bytes(content)
            order = {
                "args": [str(argument) for argument in arguments],
                "cwd": str(cwd or Path.cwd()),
                "env": dict(os.environ),
                "timeout_s": timeout_s,
                **{name: str(path) for name, path in files.items()},
            }
            print(json.dumps(order), file=server.stdin, flush=True)
            assert server.stdout is not None
            answer = server.stdout.readline().strip()
            if answer == "hung":
                command = " ".join(order["args"])
                said = files["stderr"].read_text("utf-8", "replace")
                pytest.fail(f"killed: stepaudio {command} ran for {timeout_s:g} s. {said}")
            return Finished(int(answer), files["stdout"].read_bytes(), files["stderr"].read_bytes())

        yield forked
        server.stdin.close()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a small model that writes nonsense about everything it hears."""
    import torch

    from stepaudio.models.checkpoint import save_checkpoint
    from stepaudio.models.hf_config import StepAudioConfig
    from stepaudio.models.step_audio import StepAudio2ForCausalLM
    from stepaudio.text.tokenizer import TextTokenizer
    from stepaudio_recipes.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("random_model")
    save_tokenizer(train_tokenizer([_WORDS] * 3, num_text_tokens=280), folder)
    vocab = TextTokenizer.from_folder(folder).vocab
    configs = Path(str(files("stepaudio_recipes"))) / "configs" / "pretrain"
    values = json.loads((configs / "tiny_model.json").read_text())
    values["text_config"] |= {
        "vocab_size": vocab.size,
        "eos_token_id": list(vocab.stop_ids),
        "pad_token_id": vocab.pad,
        "initializer_range": 0.2,  # large enough that greedy choices are not ties
    }
    values |= {
        "audio_start_token_id": vocab.audio_start,
        "audio_patch_token_id": vocab.audio_patch,
    }
    torch.manual_seed(0)
    save_checkpoint(StepAudio2ForCausalLM(StepAudioConfig(**values)), folder)
    return folder
