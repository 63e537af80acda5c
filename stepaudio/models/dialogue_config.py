"""How a model converses: an extension that public checkpoints do not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection

Hearing = Literal["audio", "transcript"]
ToolDeclaration = Literal["schemas", "names"]


@dataclass(frozen=True, kw_only=True)
class DialogueConfig(ConfigSection):
    """Section ``dialogue`` of ``config.json``; the defaults are what public models do.

    Attributes:
        hearing: "audio": a conversation holds what was heard; "transcript": it holds what the
            model's recognition wrote down, and answers are text that is then read aloud. Small
            models learn a conversation in text, but not one in sound.
        adapter: adapter that converses, a folder beside the weights; empty: the model itself.
        language: conversations are in the spoken form of this language: lower case, no
            punctuation, no digits; empty: as they are written.
        tools: how tools are declared: by their schemas, or by their names alone to a model that
            was trained to know them.
        min_confidence: transcripts that recognition is less certain of count as not understood.
        not_understood: answer to speech without a transcript that can be relied on.
    """

    hearing: Hearing = "audio"
    adapter: str = ""
    language: str = ""
    tools: ToolDeclaration = "schemas"
    min_confidence: float = 0.0
    not_understood: str = "sorry i did not understand that"

    def __post_init__(self) -> None:
        if self.hearing not in get_args(Hearing) or self.tools not in get_args(ToolDeclaration):
            raise ConfigError(
                f"config.json: dialogue: hearing must be one of {get_args(Hearing)} and tools one "
                f"of {get_args(ToolDeclaration)}, got {self.hearing!r} and {self.tools!r}"
            )
        if self.hearing == "audio" and self.to_dict():
            raise ConfigError(
                "config.json: dialogue: the fields beside hearing need hearing 'transcript'"
            )
