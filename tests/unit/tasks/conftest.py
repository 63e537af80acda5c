"""Checkpoints whose answers are known: see `tests.scripted`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stepaudio.tasks.step_audio import StepAudio
from tests.scripted import scripted_checkpoint

NEWLINE = "Ċ"  # the last token of every header
EOT = "<|EOT|>"
CODES = [*range(10, 18), 20, 21, 22]
SPEECH = (
    "<tts_start>",
    "Hello",
    *(f"<audio_{code}>" for code in CODES[:4]),
    "Ġworld",
    *(f"<audio_{code}>" for code in CODES[4:8]),
    "<tts_pad>",
    *(f"<audio_{code}>" for code in CODES[8:]),
    "<audio_6561>",
    "<tts_end>",
    EOT,
)
TEXT = (NEWLINE, "All", "Ġfine", EOT)
CALLS = (
    "<tts_start>",
    "Wait",
    *(f"<audio_{code}>" for code in CODES[:4]),
    "<tts_end>",
    "<tool_call>",
    'functionĊsearchĊ{"query":Ġ"rain"}',
    "</tool_call><tool_call>functionĊclockĊ{}",
    "</tool_call>",
    EOT,
)
THOUGHT = (NEWLINE, "AĠchild", "ĠlaughsĊ</think>", "Ġnever")

Scripted = Callable[..., StepAudio]


@pytest.fixture
def scripted(tmp_path: Path, definition: dict[str, Any]) -> Scripted:
    """Load a model that follows scripts; `name` is that of its folder."""

    def build(*scripts: Sequence[str], name: str = "mini", **config: Any) -> StepAudio:
        folder = scripted_checkpoint(tmp_path / name, definition, scripts, **config)
        return StepAudio.from_pretrained(folder, lazy=True)

    return build
