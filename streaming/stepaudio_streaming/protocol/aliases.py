"""Names of OpenAI's models and voices, under which the own ones are served too.

Stock clients ask for them by default; without aliases their first message would fail.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stepaudio.errors import RequestError

SPEECH_MODELS = (
    "gpt-realtime",
    "gpt-realtime-mini",
    "gpt-4o-realtime-preview",
    "gpt-4o-mini-realtime-preview",
    "gpt-audio",
    "gpt-audio-mini",
    "gpt-4o-audio-preview",
)
TRANSCRIPTION_MODELS = (
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-realtime-whisper",
    "gpt-transcribe",
    "gpt-live-transcribe",
)
TTS_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
STOCK_VOICES = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse",
    "marin", "cedar",
)  # fmt: skip

# Dated and numbered editions of the above: gpt-realtime-2.1-mini, whisper-1-2026-01-01.
_EDITION = re.compile(r"(-\d+(\.\d+)?)?(-mini|-preview|-diarize)*(-\d{4}-\d{2}-\d{2})?\Z")


def is_alias(name: str) -> bool:
    """Whether a stock client may mean the served model by this name."""
    stock = SPEECH_MODELS + TRANSCRIPTION_MODELS + TTS_MODELS
    return any(name.startswith(known) and _EDITION.match(name, len(known)) for known in stock)


def check_model(name: str, served: str, *, param: str = "model") -> None:
    """Make sure that a model's name means the served one.

    Raises:
        RequestError: it does not (code "model_not_found").
    """
    if name != served and not is_alias(name):
        raise RequestError(
            f"The model '{name}' does not exist; this server has '{served}'.",
            code="model_not_found",
            param=param,
        )


def resolve_voice(name: str, voices: Sequence[str], *, param: str = "voice") -> str:
    """Own voice that serves a name; stock voices are spread over the own ones.

    Raises:
        RequestError: there is no such voice.
    """
    if name in voices:
        return name
    if name in STOCK_VOICES and voices:
        return voices[STOCK_VOICES.index(name) % len(voices)]
    raise RequestError(
        f"Invalid value: '{name}'. Voices are {', '.join([*voices, *STOCK_VOICES])}.",
        code="invalid_value",
        param=param,
    )
