"""What a checkpoint can do: its variant, its modes, and how each mode is sampled.

The modes are a property of the checkpoint (specification, sections 8 and 9): its configuration
names them, or else its variant implies those of the public model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from stepaudio.conversation import Mode
from stepaudio.errors import ConfigError
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.hf_config import StepAudioConfig

Variant = Literal["instruct", "base", "think"]
TaskMode = Literal[
    "asr",
    "chat",
    "voice_chat",
    "translate",
    "translate_speech",
    "caption",
    "describe",
    "audio_qa",
    "tools",
    "think",
    "read_aloud",
    "read_translation",
    "tts",
]


@dataclass(frozen=True)
class ModeDefaults:
    """Kind of answer of a mode, and how the public examples sample it."""

    answer: Mode
    sampling: SamplingParams


_SPEECH_TOKENS = 4096
_TRANSLATE = SamplingParams(temperature=0.1, max_new_tokens=256)
_SPEAK = SamplingParams(temperature=0.7, max_new_tokens=_SPEECH_TOKENS)
_CONVERSE = SamplingParams(
    temperature=0.7, top_p=0.9, repetition_penalty=1.05, max_new_tokens=_SPEECH_TOKENS
)

DEFAULTS: Mapping[TaskMode, ModeDefaults] = {
    "asr": ModeDefaults("text", SamplingParams(max_new_tokens=256)),
    "chat": ModeDefaults(
        "text",
        SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.05, max_new_tokens=256),
    ),
    "voice_chat": ModeDefaults("speech", _CONVERSE),
    "translate": ModeDefaults("text", _TRANSLATE),
    "translate_speech": ModeDefaults("speech", _SPEAK),
    "caption": ModeDefaults("text", _TRANSLATE),
    "describe": ModeDefaults(
        "text", SamplingParams(temperature=0.5, top_p=0.9, max_new_tokens=1024)
    ),
    # The public example searches with two beams; greedy comes closest to it here.
    "audio_qa": ModeDefaults("text", SamplingParams(max_new_tokens=256)),
    "tools": ModeDefaults("speech", _CONVERSE),
    "think": ModeDefaults("speech", _CONVERSE),
    "read_aloud": ModeDefaults("speech", _SPEAK),
    "read_translation": ModeDefaults("speech", _SPEAK),
    "tts": ModeDefaults("speech", _SPEAK),
}
# A thought is text; the public client lets it be as long as an answer in text can be.
THOUGHT_TOKENS = 2048

_INSTRUCT: tuple[TaskMode, ...] = (
    "asr",
    "chat",
    "voice_chat",
    "translate",
    "translate_speech",
    "caption",
    "describe",
    "audio_qa",
    "tools",
)
VARIANT_MODES: Mapping[Variant, tuple[TaskMode, ...]] = {
    "instruct": _INSTRUCT,
    "base": (
        "asr",
        "voice_chat",
        "translate",
        "translate_speech",
        "read_aloud",
        "read_translation",
    ),
    "think": (*_INSTRUCT, "think"),
}


def variant_of(name: str | Path) -> Variant:
    """Variant that the name of a folder or repository says, such as Step-Audio-2-mini-Base."""
    for part in (Path(name).name, *reversed(Path(name).parts)):
        # The Hub's cache keeps the repository's name two folders above the files.
        if part == Path(name).name or part.startswith("models--"):
            words = re.split(r"[-_.]", part.lower())
            if "base" in words:
                return "base"
            if "think" in words:
                return "think"
    return "instruct"


def checked_variant(
    config: StepAudioConfig, name: str | Path, explicit: str | None = None
) -> Variant:
    """Variant of a checkpoint: as given, else as configured, else as named.

    Raises:
        ConfigError: there is no such variant.
    """
    value = explicit or config.variant or variant_of(name)
    for known in get_args(Variant):
        if value == known:
            return known
    raise ConfigError(
        f"{name}: unknown variant {value!r}; known are {', '.join(get_args(Variant))}"
    )


def modes_of(config: StepAudioConfig, variant: Variant) -> tuple[TaskMode, ...]:
    """Modes of a checkpoint.

    Raises:
        ConfigError: its configuration names a mode that does not exist.
    """
    if config.modes is None:
        return VARIANT_MODES[variant]
    known = get_args(TaskMode)
    unknown = [mode for mode in config.modes if mode not in known]
    if unknown:
        raise ConfigError(f"config.json: unknown modes {unknown}; known are {', '.join(known)}")
    return tuple(mode for mode in known if mode in config.modes)


def require_mode(mode: TaskMode, modes: tuple[TaskMode, ...], name: str) -> None:
    """Make sure that a checkpoint has a mode.

    Raises:
        ConfigError: it does not; the message names those that it has.
    """
    if mode not in modes:
        raise ConfigError(f"{name} has no mode {mode!r}; it has {', '.join(modes)}")
