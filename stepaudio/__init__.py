"""stepaudio: a speech and audio foundation-model toolkit.

Public names are imported on first use, so that ``import stepaudio`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stepaudio.conversation import Message
    from stepaudio.generation.sampling import SamplingParams
    from stepaudio.models.token2wav.token2wav import Token2Wav
    from stepaudio.tasks.asr import Transcriber
    from stepaudio.tasks.dialogue import Dialogue
    from stepaudio.tasks.jobs import Recording
    from stepaudio.tasks.live import LiveTranscriber, LiveUpdate
    from stepaudio.tasks.reply import Reply
    from stepaudio.tasks.speech_result import SpokenText
    from stepaudio.tasks.step_audio import StepAudio
    from stepaudio.tasks.transcript import Segment, Transcript, Word
    from stepaudio.tasks.tts import Synthesizer
    from stepaudio.text.hotwords import Hotwords

_LAZY = {
    "Dialogue": "stepaudio.tasks.dialogue",
    "Hotwords": "stepaudio.text.hotwords",
    "LiveTranscriber": "stepaudio.tasks.live",
    "LiveUpdate": "stepaudio.tasks.live",
    "Message": "stepaudio.conversation",
    "Recording": "stepaudio.tasks.jobs",
    "Reply": "stepaudio.tasks.reply",
    "SamplingParams": "stepaudio.generation.sampling",
    "Segment": "stepaudio.tasks.transcript",
    "SpokenText": "stepaudio.tasks.speech_result",
    "StepAudio": "stepaudio.tasks.step_audio",
    "Synthesizer": "stepaudio.tasks.tts",
    "Token2Wav": "stepaudio.models.token2wav.token2wav",
    "Transcriber": "stepaudio.tasks.asr",
    "Transcript": "stepaudio.tasks.transcript",
    "Word": "stepaudio.tasks.transcript",
}

__all__ = [
    "Dialogue",
    "Hotwords",
    "LiveTranscriber",
    "LiveUpdate",
    "Message",
    "Recording",
    "Reply",
    "SamplingParams",
    "Segment",
    "SpokenText",
    "StepAudio",
    "Synthesizer",
    "Token2Wav",
    "Transcriber",
    "Transcript",
    "Word",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'stepaudio' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
