"""How a checkpoint is asked to read aloud (our addition; public files have none)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection

Reading = Literal["phones", "text"]


@dataclass(frozen=True, kw_only=True)
class SpeechConfig(ConfigSection):
    """Section ``speech`` of ``config.json``; the defaults describe the public checkpoints.

    Attributes:
        reading: whether the prompt has the text as written, or the phones of its words.
        given_text: the text tokens of the answer are those of the text; otherwise the model
            writes them itself.
        adapter: adapter that speaks, a folder beside the weights; empty: the model itself.
        voices: names that the instruction may have.
        styles: words that the instruction may have, and how many times as long they make speech;
            None: any text.
        temperature: of the audio codes.
        takes: how often a sentence is generated; the take that the model's own recogniser
            understands best is kept.
        max_letters: longest text that is spoken at once; longer ones are cut.
        seconds_a_phone: how long a phone takes, for the check of what was spoken.
        pause_s: how long the silence around a sentence lasts, for the same check.
    """

    reading: Reading = "text"
    given_text: bool = False
    adapter: str = ""
    voices: tuple[str, ...] = ()
    styles: Mapping[str, float] | None = field(default=None)
    temperature: float = 0.7
    takes: int = 1
    max_letters: int = 200
    seconds_a_phone: float = 0.075
    pause_s: float = 0.6

    def __post_init__(self) -> None:
        problems = [
            (self.reading not in ("phones", "text"), "reading must be phones or text"),
            (self.given_text not in (True, False), "given_text must be true or false"),
            (not isinstance(self.adapter, str), "adapter must be a name"),
            (not _are_names(self.voices), "voices must be names"),
            (not _are_styles(self.styles), "styles must be words with positive factors"),
            (not _is_positive(self.temperature), "temperature must be positive"),
            (not _is_count(self.takes), "takes must be a number from 1 on"),
            (not _is_count(self.max_letters), "max_letters must be a number from 1 on"),
            (not _is_positive(self.seconds_a_phone), "seconds_a_phone must be positive"),
            (not _is_positive(self.pause_s), "pause_s must be positive"),
        ]
        for is_wrong, message in problems:
            if is_wrong:
                raise ConfigError(f"config.json: speech: {message}")

    @classmethod
    def of(cls, values: SpeechConfig | Mapping[str, Any] | None) -> SpeechConfig:
        """Read the section of a file; without one the checkpoint is a public one.

        Raises:
            ConfigError: it is no object, or has unknown or wrong fields.
        """
        if values is None:
            return cls()
        if isinstance(values, SpeechConfig):
            return values
        if not isinstance(values, Mapping):
            raise ConfigError("config.json: speech is no object with fields")
        return cls.from_dict(values)


def _are_names(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) for name in value)


def _are_styles(value: object) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and all(isinstance(word, str) for word in value)
        and all(map(_is_positive, value.values()))
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
