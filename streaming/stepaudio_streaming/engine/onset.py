"""Speech of a user, noticed beside the engine's thread."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from stepaudio_streaming.engine.ear import FRAME_SAMPLES
from stepaudio_streaming.engine.parts import Runner
from stepaudio_streaming.events import AppendAudio, Configure, OutputHeld, Samples
from stepaudio_streaming.turn import FRAME_MS, onset_threshold


class OnsetWatch:
    """Hears one session: finds the probabilities of speech, and holds the answer at once.

    The session decides by the same probabilities a little later; it holds again, and lets go.

    Args:
        settings: of the session at the beginning.
    """

    def __init__(self, settings: Configure) -> None:
        self._settings = settings
        self._frame: Samples = np.zeros(0, np.float32)  # beginning of the next frame
        self._num_frames = 0
        self._vad_state: Any = None

    @property
    def detects(self) -> bool:
        """Whether anybody wants to know what is speech."""
        return self._settings.turn_detection is not None

    def configure(self, settings: Configure) -> None:
        """The client wants something else; a detector that was off begins anew."""
        if self._settings.turn_detection is None:
            self._vad_state = None
        self._settings = settings

    def hear(
        self, runner: Runner, command: AppendAudio, speaks: bool
    ) -> tuple[AppendAudio, OutputHeld | None]:
        """Hear more.

        Args:
            runner: has the detector.
            command: the sound.
            speaks: the user hears the assistant at this moment.

        Returns:
            The sound with its probabilities; and that the answer is held, if it is now.
        """
        joined = np.concatenate([self._frame, command.samples])
        whole = len(joined) - len(joined) % FRAME_SAMPLES
        self._frame = joined[whole:].copy()
        first, self._num_frames = self._num_frames, self._num_frames + whole // FRAME_SAMPLES
        detection = self._settings.turn_detection
        if detection is None:
            return command, None
        state = runner.init_vad() if self._vad_state is None else self._vad_state
        found: list[float] = []
        if whole:
            found, state = runner.speech_probabilities(joined[:whole], state)
        self._vad_state = state
        heard = replace(command, probabilities=tuple(found))
        if speaks and detection.interrupt:
            threshold = onset_threshold(detection)
            for index, probability in enumerate(found, start=first + 1):
                if probability >= threshold:
                    return heard, OutputHeld(True, FRAME_MS * index)
        return heard, None
