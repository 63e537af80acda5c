"""How well a model understands its own speech: what chooses between the takes of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.mel import log_mel
from stepaudio.audio.resample import resample
from stepaudio.errors import ConfigError
from stepaudio.text.letter_to_sound import LetterToSound
from stepaudio.text.word_model import WORDS_FILE, WordModel

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio


class SpeechJudge:
    """Listens with a model's own encoder and its head on phones.

    Args:
        model: hears phones, and has the pronunciations of words.

    Raises:
        ConfigError: it has no head on phones, or no list of words.
    """

    def __init__(self, model: StepAudio) -> None:
        self._model = model
        encoder = model.config.audio_encoder_config
        folder = model.folder
        if not encoder.ctc_phones or folder is None or not (folder / WORDS_FILE).is_file():
            raise ConfigError(
                f"{model.name}: cannot choose between takes: that needs a head on phones and "
                f"{WORDS_FILE}; speak one take"
            )
        self._folder = folder
        self._indices = {phone: index for index, phone in enumerate(encoder.ctc_phones, 1)}

    @cached_property
    def _sounds(self) -> LetterToSound:
        words = WordModel.load(self._folder)
        assert words is not None
        return LetterToSound(words)

    def phones(self, words: Sequence[str]) -> list[int]:
        """CTC indices of the phones of normalised words, each said the usual way."""
        spoken = (self._sounds.pronunciations(word, 1) for word in words)
        phones = [phone for known in spoken for phone in (known[0] if known else ())]
        return [self._indices[phone] for phone in phones]

    @torch.inference_mode()
    def loss(self, samples: Tensor, sample_rate: int, words: Sequence[str]) -> float:
        """How hard it is to hear words in some speech: CTC loss in nats a phone.

        Args:
            samples: float32 [samples].
            sample_rate: in Hz.
            words: what was to be said, normalised.

        Returns:
            Infinity for speech that is too short for its phones; 0 if the words have none.
        """
        targets = self.phones(words)
        if not targets:
            return 0.0
        model = self._model.model
        encoder = model.config.audio_encoder_config
        heard = resample(samples, sample_rate, SAMPLE_RATE)
        mel = log_mel(heard, encoder.n_mels, floor=encoder.mel_floor)
        device = model.lm_head.weight.device
        lens = torch.tensor([encoder.geometry.valid_mel_frames(mel.shape[1])], device=device)
        encoded, _ = model.encode_audio(mel[None].to(device), lens)
        posteriors = model.phone_head(encoded)
        loss = F.ctc_loss(
            posteriors.values.float().transpose(0, 1),
            torch.tensor([targets], device=device),
            posteriors.lengths,
            torch.tensor([len(targets)], device=device),
            reduction="sum",
        )
        return float(loss) / len(targets)
