"""Audio on its way into a prompt: pieces with their samples and, once encoded, their latents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stepaudio.audio.decoding import AudioSource, source_name
from stepaudio.audio.frames import SAMPLE_RATE, FrameGeometry, pieces
from stepaudio.audio.io import load_audio
from stepaudio.audio.mel import log_mel
from stepaudio.conversation import AudioPart, audio_parts
from stepaudio.errors import AudioLoadError
from stepaudio.generation.generator import Generator


@dataclass
class Clip:
    """One piece of at most 25 s.

    Attributes:
        samples: float32 [samples] at 16 kHz.
        latents: [S, D], once the piece was encoded.
    """

    samples: Tensor
    latents: Tensor | None = None


def hear(
    audio: AudioSource | Tensor, geometry: FrameGeometry, key: str
) -> tuple[dict[str, Clip], tuple[AudioPart, ...]]:
    """Read an audio and cut it as the public client does.

    Args:
        audio: path, bytes or file object, or float32 [samples] at 16 kHz.
        geometry: frame arithmetic of the encoder that will hear it.
        key: name of the audio in the prompt.

    Returns:
        Its pieces by key, and the parts of a message that stand for them.

    Raises:
        AudioLoadError: it cannot be read, or is too short to be heard.
    """
    samples, name = read_samples(audio)
    parts = audio_parts(len(samples), geometry, key)
    if not any(part.num_tokens for part in parts):
        raise AudioLoadError(f"{name}: {len(samples) / SAMPLE_RATE:.3f} s are too short to hear")
    bounds = pieces(len(samples))
    clips = {
        part.key: Clip(samples[start:stop])
        for part, (start, stop) in zip(parts, bounds, strict=True)
    }
    return clips, parts


def read_samples(audio: AudioSource | Tensor) -> tuple[Tensor, str]:
    """Samples of an audio, float32 [samples] at 16 kHz, and what errors call it.

    Raises:
        AudioLoadError: it cannot be read, or is no mono waveform.
    """
    if not isinstance(audio, Tensor):
        return load_audio(audio).samples.float(), source_name(audio)
    if audio.dim() != 1 or not audio.is_floating_point():
        raise AudioLoadError(
            f"audio: must be mono float samples [samples] at {SAMPLE_RATE} Hz, got "
            f"{audio.dtype} of shape {tuple(audio.shape)}"
        )
    return audio.float(), "audio"


def latents_of(clips: Sequence[Clip], generator: Generator) -> tuple[list[Tensor], float]:
    """Latents [S, D] of every piece, and the seconds that it took to encode the new ones.

    Pieces that were not encoded before are encoded together, and then remember their latents.
    """
    started, config = time.perf_counter(), generator.model.config.audio_encoder_config
    new = [clip for clip in clips if clip.latents is None]
    if new:
        mels = [log_mel(clip.samples, config.n_mels, floor=config.mel_floor) for clip in new]
        for clip, latents in zip(new, generator.encode(mels), strict=True):
            clip.latents = latents
    encode_s = time.perf_counter() - started if new else 0.0
    return [clip.latents for clip in clips if clip.latents is not None], encode_s
