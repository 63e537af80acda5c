"""Exceptions that users of stepaudio may want to catch.

Every message names the file or field, the cause, and what to do about it.
"""


class StepAudioError(Exception):
    """Base of every error that stepaudio raises on purpose."""


class AudioLoadError(StepAudioError):
    """An audio file or byte string could not be read."""


class OutputError(StepAudioError):
    """A result could not be written."""


class ConfigError(StepAudioError):
    """A configuration is incomplete, contradictory or has unknown fields."""


class CheckpointError(StepAudioError):
    """A checkpoint is missing, incomplete or does not fit its configuration."""


class CapacityError(StepAudioError):
    """A request does not fit the slots, cache or context that the model has."""


class ToolError(StepAudioError):
    """A tool call failed or was malformed."""


class AudioTokenError(StepAudioError, ValueError):
    """Audio tokens are outside of the codebook, or there are none."""


class VoiceError(StepAudioError):
    """A recording cannot serve as a voice: too short, silent, clipped, of an unusual rate."""


class SpeechTextError(StepAudioError):
    """A text has nothing that can be spoken."""


class RequestError(StepAudioError):
    """A client's request cannot be served.

    Attributes:
        code: what is wrong, as a word for programs, such as "unknown_parameter".
        param: the field that is wrong, such as "session.audio.input".
    """

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
