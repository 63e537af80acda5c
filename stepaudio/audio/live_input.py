"""Sound as it arrives through a pipe: raw PCM, or a WAV file that is still being written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.resample import resample_blocks
from stepaudio.errors import AudioLoadError

_READ_BYTES = 1 << 14
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MAX_HEADER = 1 << 20
_MAX_CHANNELS, _RATES = 64, range(1000, 768_001)
_TYPES = {(_PCM, 16): "<i2", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4"}
_SCALES = {"<i2": 2.0**-15, "<i4": 2.0**-31, "<f4": 1.0}


@dataclass(frozen=True)
class PcmFormat:
    """How samples lie in a stream of bytes.

    Attributes:
        sample_rate: in Hz.
        num_channels: interleaved; their mean is taken.
        dtype: numpy's name of the type of a sample.
    """

    sample_rate: int = SAMPLE_RATE
    num_channels: int = 1
    dtype: str = "<i2"


def is_wav(head: bytes) -> bool:
    """Whether a stream that begins with these 12 bytes is a WAV file."""
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def live_blocks(
    file: BinaryIO, format: PcmFormat | None = None, *, name: str = "-"
) -> Iterator[Tensor]:
    """Blocks of a stream of sound, each as soon as it is there.

    Args:
        file: where the bytes come from; only read, never sought.
        format: of raw samples; None: a WAV header tells.
        name: how errors name the source.

    Yields:
        float32 [samples] at 16 kHz, of any lengths.

    Raises:
        AudioLoadError: there is nothing, no WAV header, or a kind of WAV that cannot be streamed.
    """
    if format is None:
        format = _read_header(file, name)
    blocks = _samples(file, format, name)
    yield from resample_blocks(blocks, format.sample_rate, SAMPLE_RATE)


def _samples(file: BinaryIO, format: PcmFormat, name: str) -> Iterator[Tensor]:
    size = np.dtype(format.dtype).itemsize * format.num_channels
    # What is there, without waiting for more.
    read = getattr(file, "read1", file.read)
    held, num_bytes = b"", 0
    while data := read(_READ_BYTES):
        num_bytes += len(data)
        held += data
        whole = len(held) - len(held) % size
        values = np.frombuffer(held[:whole], format.dtype).astype(np.float32)
        held = held[whole:]
        frames = values.reshape(-1, format.num_channels).mean(1) * _SCALES[format.dtype]
        if not np.isfinite(frames).all():
            raise AudioLoadError(f"{name}: has samples that are no numbers (NaN)")
        yield torch.from_numpy(frames.astype(np.float32))
    if not num_bytes:
        raise AudioLoadError(f"{name}: has no samples")


def _read_header(file: BinaryIO, name: str) -> PcmFormat:
    """Read a WAV file up to its first sample; sizes are ignored, a writer may not know them yet."""
    head = file.read(12)
    if not head:
        raise AudioLoadError(f"{name}: the file is empty (0 bytes)")
    if not is_wav(head):
        raise AudioLoadError(
            f"{name}: no WAV file; give raw 16-bit samples with --pcm-rate, or a file by its path"
        )
    format: PcmFormat | None = None
    while len(chunk := file.read(8)) == 8:
        kind, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        if kind == b"data":
            if format is None:
                break
            return format
        if size > _MAX_HEADER:
            break
        body = file.read(size + size % 2)
        if kind == b"fmt ":
            format = _parse_format(body, name)
    raise AudioLoadError(f"{name}: the WAV header is damaged")


def _parse_format(body: bytes, name: str) -> PcmFormat:
    if len(body) < 16:
        raise AudioLoadError(f"{name}: the WAV header is damaged")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if code == _EXTENSIBLE and len(body) >= 26:
        code = struct.unpack("<H", body[24:26])[0]
    if (code, bits) not in _TYPES or rate not in _RATES or not 1 <= channels <= _MAX_CHANNELS:
        raise AudioLoadError(
            f"{name}: WAV of format {code} with {bits} bits, {channels} channels and {rate} Hz "
            "cannot be streamed; 16-bit PCM can"
        )
    return PcmFormat(rate, channels, _TYPES[code, bits])
