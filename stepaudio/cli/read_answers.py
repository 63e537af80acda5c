"""Spoken answers of a model that answers in text and reads it aloud."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stepaudio.errors import AudioTokenError

if TYPE_CHECKING:
    from torch import Tensor

    from stepaudio.models.token2wav.token2wav import SpeechVoice
    from stepaudio.tasks.reply import Reply
    from stepaudio.tasks.step_audio import StepAudio
    from stepaudio.tasks.tts import Synthesizer


class ReadAnswers:
    """One file with the sound of all answers so far, one behind the other."""

    def __init__(
        self, synthesizer: Synthesizer, voice: SpeechVoice, out: str, seed: int = 0
    ) -> None:
        self._synthesizer = synthesizer
        self._voice = voice
        self._out = out
        self._seed = seed
        self._spoken: list[Tensor] = []

    @classmethod
    def from_arguments(cls, args: argparse.Namespace, model: StepAudio) -> ReadAnswers:
        """Load what speaks beside a loaded model, and the voice.

        Raises:
            StepAudioError: the checkpoint cannot speak, or the voice cannot be used.
        """
        from stepaudio.models.token2wav.token2wav import Token2Wav
        from stepaudio.tasks.tts import Synthesizer

        engine = Token2Wav.from_pretrained(args.model, device=args.device, revision=args.revision)
        synthesizer = Synthesizer(model, engine)
        voice = synthesizer.prepare_voice(args.voice)
        return cls(synthesizer, voice, args.out, args.seed or 0)

    def add(self, reply: Reply) -> None:
        """Read an answer aloud and write the file anew; one without text is silent.

        Raises:
            SpeechTextError: nothing in it can be said.
            OutputError: the file cannot be written.
        """
        import torch

        from stepaudio.audio.io import save_audio

        if not reply.text:
            return
        spoken = self._synthesizer.speak(reply.text, voice=self._voice, seed=self._seed)
        self._spoken.append(spoken.samples)
        save_audio(self._out, torch.cat(self._spoken), spoken.sample_rate)

    def check(self) -> None:
        """Make sure that something was spoken.

        Raises:
            AudioTokenError: nothing was.
        """
        if not self._spoken:
            raise AudioTokenError(f"{self._out}: not written: no answer has text to read aloud")
