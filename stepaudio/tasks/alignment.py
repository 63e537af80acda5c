"""When each word of a transcript was said, by forced alignment with a CTC head.

The transcript may come from any model; the CTC head is that of an aligning model, by default
nano's, which knows English letters. Words in other scripts, and figures, share the time between
their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.functional import TokenSpan, forced_align, merge_tokens

from stepaudio.audio.frames import MEL_FRAMES_PER_SECOND, SAMPLE_RATE
from stepaudio.audio.mel import log_mel
from stepaudio.errors import ConfigError
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.transcript import Word
from stepaudio.text.ctc import BLANK, ctc_targets

_SPACE = " "


@dataclass(frozen=True)
class Span:
    """Where a word lies in time, in any unit, and how sure that is, 0 to 1."""

    start: float
    end: float
    confidence: float


class WordAligner:
    """Finds the times of words with the CTC head of one model."""

    def __init__(self, model: StepAudio2ForCausalLM) -> None:
        """Take a loaded model.

        Raises:
            ConfigError: it has no CTC head.
        """
        config = model.config.audio_encoder_config
        if not config.ctc_tokens:
            raise ConfigError("word timestamps need a model with a CTC head, such as nano")
        self._model = model.eval()
        self._config = config
        stride = config.geometry.encoder_stride
        self._frame_s = stride / MEL_FRAMES_PER_SECOND / config.ctc_upsample

    @classmethod
    def from_pretrained(cls, source: str | Path = "nano", *, device: str = "auto") -> WordAligner:
        """Load the aligning model by name, folder or hub id.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigError: it has no CTC head, or there is no such device.
        """
        return cls(load_pretrained(source, device=device)[0])

    @torch.inference_mode()
    def align(self, wav: Tensor, text: str) -> tuple[Word, ...]:
        """Times of the words of a text, in seconds from the beginning of the waveform.

        Args:
            wav: float32 [samples] at 16 kHz, at most one piece.
            text: what is said in it; its words are what whitespace divides.

        Returns:
            Every word once, in order. A word's confidence is the geometric mean of the
            probabilities of its letters; 0 where it could not be aligned.
        """
        return self.align_frames(self._log_probs(wav), text, wav.shape[-1] / SAMPLE_RATE)

    def align_frames(self, log_probs: Tensor, text: str, duration_s: float) -> tuple[Word, ...]:
        """As `align`, where the clip has been encoded already.

        Args:
            log_probs: [T, 1 + characters] of the CTC head, on the CPU in float32.
            text: what is said.
            duration_s: length of the clip.
        """
        words = text.split()
        spans = self._spans(log_probs, [word.lower() for word in words])
        seconds = [
            span and Span(span.start * self._frame_s, span.end * self._frame_s, span.confidence)
            for span in spans
        ]
        return tuple(
            Word(word, round(span.start, 3), round(span.end, 3), round(span.confidence, 3))
            for word, span in zip(words, fill_gaps(seconds, duration_s), strict=True)
        )

    def _spans(self, log_probs: Tensor, words: Sequence[str]) -> list[Span | None]:
        """CTC frames of each word; None for those without letters, or if nothing fits."""
        letters = [ctc_targets(word, self._config.ctc_tokens) for word in words]
        spelled = [index for index, targets in enumerate(letters) if targets]
        space = ctc_targets(_SPACE, self._config.ctc_tokens)
        targets: list[int] = []
        owners: list[int] = []
        for index in spelled:
            between = space if targets else []
            targets += between + letters[index]
            owners += [-1] * len(between) + [index] * len(letters[index])
        repeats = sum(a == b for a, b in pairwise(targets))
        spans: list[Span | None] = [None] * len(words)
        if not targets or len(targets) + repeats > len(log_probs):
            return spans
        path, scores = forced_align(log_probs[None], torch.tensor([targets]), blank=BLANK)
        found = merge_tokens(path[0], scores[0], blank=BLANK)
        for index in spelled:
            own = [span for span, owner in zip(found, owners, strict=True) if owner == index]
            spans[index] = _joined(own)
        return spans

    def _log_probs(self, wav: Tensor) -> Tensor:
        """[T, 1 + characters] of the CTC head, on the CPU in float32."""
        config = self._config
        if not config.geometry.tokens_for_samples(wav.shape[-1]):
            return torch.zeros(0, len(config.ctc_tokens) + 1)
        mel = log_mel(wav, config.n_mels, floor=config.mel_floor)
        frames = config.geometry.valid_mel_frames(mel.shape[1])
        lens = torch.tensor([frames], device=self._model.device)
        encoded, _ = self._model.encode_audio(mel[None].to(self._model.device), lens)
        heard = self._model.ctc_head(encoded)
        return heard.values[0, : int(heard.lengths[0])].float().cpu()


def _joined(letters: Sequence[TokenSpan]) -> Span:
    mean = sum(span.score for span in letters) / len(letters)
    return Span(letters[0].start, letters[-1].end, math.exp(mean))


def fill_gaps(spans: Sequence[Span | None], end: float) -> list[Span]:
    """Give spans that are not known equal shares of the time between their neighbours.

    Args:
        spans: in order, without overlaps.
        end: where the last one ends at the latest.
    """
    filled: list[Span] = []
    index = 0
    while index < len(spans):
        span = spans[index]
        if span is not None:
            filled.append(Span(min(span.start, end), min(span.end, end), span.confidence))
            index += 1
            continue
        known = next((i for i in range(index, len(spans)) if spans[i] is not None), len(spans))
        following = spans[known] if known < len(spans) else None
        left = filled[-1].end if filled else 0.0
        right = end if following is None else min(following.start, end)
        share = (right - left) / (known - index)
        filled += [
            Span(left + n * share, left + (n + 1) * share, 0.0) for n in range(known - index)
        ]
        index = known
    return filled
