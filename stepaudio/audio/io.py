"""Audio files, bytes and file objects to mono waveforms, and waveforms to files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from stepaudio.atomic import write_bytes_atomic
from stepaudio.audio.decoding import AudioSource, DecodedStream, MonoMix, Samples, open_decoder
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.resample import resample, resample_blocks
from stepaudio.errors import AudioLoadError

DEFAULT_BLOCK_S = 30.0
# Suffix of an output file to libsndfile's format and subtype.
_OUTPUT_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
}
OUTPUT_SUFFIXES = tuple(_OUTPUT_FORMATS)


@dataclass(frozen=True)
class Waveform:
    """A mono recording.

    Attributes:
        samples: float32 [samples] at `sample_rate`.
        sample_rate: in Hz.
        duration_s: duration of the source in seconds.
        source_rate: sample rate of the source in Hz.
    """

    samples: Tensor
    sample_rate: int
    duration_s: float
    source_rate: int


def _checked_blocks(stream: DecodedStream, max_duration_s: float | None) -> Iterator[Samples]:
    """Blocks of a stream; too long, unusable and missing samples raise AudioLoadError."""
    done = 0
    for block in stream.blocks:
        finite = np.isfinite(block)
        if not finite.all():
            at_s = (done + int(finite.argmin())) / stream.sample_rate
            raise AudioLoadError(f"{stream.name}: holds NaN or infinite samples at {at_s:.3f} s")
        done += len(block)
        if max_duration_s is not None and done > max_duration_s * stream.sample_rate:
            raise AudioLoadError(f"{stream.name}: longer than the limit of {max_duration_s:g} s")
        yield block
    if done == 0:
        raise AudioLoadError(f"{stream.name}: holds no samples")


def load_audio(
    source: AudioSource,
    *,
    sample_rate: int = SAMPLE_RATE,
    mono: MonoMix = "first",
    max_duration_s: float | None = None,
    name: str | None = None,
) -> Waveform:
    """Read a whole recording of any common format (specification, section 1).

    wav, flac, mp3, ogg/opus are decoded with soundfile, everything that it refuses (m4a, webm,
    the sound of videos) with PyAV. Resampling is torchaudio's. The specification resamples all
    channels and keeps channel 0; taking channel 0 first gives the same samples.

    A file that was cut off raises an error where that can be seen: wav, flac, m4a, mp3 with the
    usual Xing or Info header, webm with a duration, ogg cut inside a page. Recordings of live
    streams announce no length; of these everything that is there is returned.

    Args:
        source: path, encoded bytes, or binary file object.
        sample_rate: wanted rate in Hz.
        mono: take channel 0, as the public models do, or the mean of all channels.
        max_duration_s: refuse longer recordings; for those use `iter_audio_blocks`.
        name: how errors name the source; its path if omitted.

    Raises:
        AudioLoadError: missing, a folder, unreadable, empty, without samples, cut off, corrupt,
            not audio, no audio track, NaN or infinite samples, longer than the limit. The message
            is one line that names the source and the cause.
    """
    with open_decoder(source, mono=mono, name=name) as stream:
        samples = np.concatenate(list(_checked_blocks(stream, max_duration_s)))
        rate = stream.sample_rate
    converted = resample(torch.from_numpy(samples), rate, sample_rate)
    return Waveform(converted, sample_rate, len(samples) / rate, rate)


def iter_audio_blocks(
    source: AudioSource,
    block_s: float = DEFAULT_BLOCK_S,
    *,
    sample_rate: int = SAMPLE_RATE,
    mono: MonoMix = "first",
    name: str | None = None,
) -> Iterator[Tensor]:
    """Read a recording of any length block by block, with memory for a few blocks only.

    All blocks together equal `load_audio(source).samples`.

    Args:
        source: path, encoded bytes, or binary file object.
        block_s: duration of every block but the last, in seconds.
        sample_rate: wanted rate in Hz.
        mono: take channel 0 or the mean of all channels.
        name: how errors name the source; its path if omitted.

    Yields:
        float32 [round(block_s * sample_rate)], the last one shorter.

    Raises:
        AudioLoadError: as `load_audio`; a damaged file may raise behind its first blocks.
        ValueError: `block_s` is shorter than a sample.
    """
    block_samples = round(block_s * sample_rate)
    if block_samples < 1:
        raise ValueError(f"block_s must be at least one sample long, got {block_s}")
    with open_decoder(source, mono=mono, name=name) as stream:
        blocks = (torch.from_numpy(block) for block in _checked_blocks(stream, None))
        yield from rechunk(resample_blocks(blocks, stream.sample_rate, sample_rate), block_samples)


def rechunk(blocks: Iterable[Tensor], block_samples: int) -> Iterator[Tensor]:
    """Regroup blocks of any lengths into blocks of `block_samples`, the last one shorter."""
    held: list[Tensor] = []
    num_held = 0
    for block in blocks:
        held.append(block)
        num_held += len(block)
        if num_held < block_samples:
            continue
        joined = torch.cat(held)
        whole = num_held - num_held % block_samples
        yield from joined[:whole].split(block_samples)
        held, num_held = [joined[whole:]], num_held - whole
    if num_held:
        yield torch.cat(held)


def probe_duration_s(source: AudioSource, *, name: str | None = None) -> float:
    """Duration of a recording in seconds, from its header where that tells.

    Files that announce no length are decoded to their end. For an mp3 file without a Xing or Info
    header this is an estimate.

    Raises:
        AudioLoadError: the source cannot be opened, see `load_audio`.
    """
    with open_decoder(source, name=name) as stream:
        num_samples = stream.num_samples
        if num_samples is None:
            num_samples = sum(map(len, stream.blocks))
        return num_samples / stream.sample_rate


def save_audio(path: str | Path, samples: Tensor | Samples, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a mono waveform atomically: wav, flac, mp3, or ogg/opus by the suffix of the path.

    Args:
        path: output file; its folder must exist.
        samples: float [samples], clipped to -1 to 1.
        sample_rate: in Hz.

    Raises:
        OutputError: no permission, no space, or no such folder.
        ValueError: unknown suffix, samples that are not one-dimensional, or a rate that the format
            does not know (Opus: 8, 12, 16, 24 and 48 kHz).
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _OUTPUT_FORMATS:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(OUTPUT_SUFFIXES)}")
    if samples.ndim != 1:
        raise ValueError(f"samples must be mono [samples], got shape {tuple(samples.shape)}")
    values = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else samples
    container, subtype = _OUTPUT_FORMATS[suffix]
    encoded = io.BytesIO()
    try:
        # Encoding in memory first: libsndfile has no error of its own for a full disk.
        soundfile.write(
            encoded, np.clip(values, -1.0, 1.0), sample_rate, format=container, subtype=subtype
        )
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{path}: {suffix} cannot hold sound at {sample_rate} Hz ({error.error_string})"
        ) from error
    write_bytes_atomic(path, encoded.getvalue())
