"""What was measured in one turn."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Turn:
    """A question and its answer. Times in seconds; None: it did not happen.

    Attributes:
        speaker: number of the speaker.
        number: of the turn, from 0.
        recording: what was asked.
        ended_at: end of the question on the steady clock; 0: it was not asked to its end.
        vad_wait_s: from the last frame of speech to `speech_stopped`.
        first_audio_s: from the last frame of speech to the first sound.
        underruns: how often the player ran dry.
        underrun_s: silence that this made.
        audio_s: sound that was received.
        status: of the response.
        is_killed: the client died.
        is_timeout: the answer did not come.
        was_interrupted: somebody spoke while the answer was being played.
        was_being_made: the answer was not yet complete then.
        stop_s: from the first frame of that speech to the last sound of the old answer; 0: none
            came behind it.
        told_s: from that frame to `speech_started`.
        heard: transcript of the question, if the session has one.
        said: transcript of the answer.
        sound: PCM16 at 24 kHz of the answer, if it is kept.
    """

    speaker: int
    number: int
    recording: str
    ended_at: float = 0.0
    vad_wait_s: float | None = None
    first_audio_s: float | None = None
    underruns: int = 0
    underrun_s: float = 0.0
    audio_s: float = 0.0
    status: str = ""
    is_killed: bool = False
    is_timeout: bool = False
    was_interrupted: bool = False
    was_being_made: bool = False
    stop_s: float | None = None
    told_s: float | None = None
    heard: str = ""
    said: str = ""
    sound: bytes = field(default=b"", repr=False)

    @property
    def after_turn_s(self) -> float | None:
        """From `speech_stopped` to the first sound: without the wait for the end of the turn."""
        if self.first_audio_s is None or self.vad_wait_s is None:
            return None
        return self.first_audio_s - self.vad_wait_s
