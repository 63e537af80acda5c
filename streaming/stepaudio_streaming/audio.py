"""Sound on the wire: PCM16 at 24 kHz and G.711 at 8 kHz, base64, and streaming rate conversion.

The rate conversion has the numbers of `stepaudio.audio.resample` (torchaudio's filter) without
torch, so that a gateway process needs none.
"""

from __future__ import annotations

import base64
import binascii
import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stepaudio.errors import RequestError
from stepaudio_streaming.events import INPUT_RATE, OUTPUT_RATE, Samples

WireFormat = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]

MAX_APPEND_BYTES = 15 << 20
PCM_RATE = 24_000  # Hz
G711_RATE = 8_000  # Hz

_FILTER_WIDTH = 6  # zero crossings on each side, torchaudio's default
_ROLLOFF = 0.99


def wire_rate(wire: WireFormat) -> int:
    """Sample rate in Hz."""
    return PCM_RATE if wire == "audio/pcm" else G711_RATE


def sample_bytes(wire: WireFormat) -> int:
    """Bytes of a sample."""
    return 2 if wire == "audio/pcm" else 1


def duration_ms(num_bytes: int, wire: WireFormat) -> float:
    """Duration of encoded audio in ms."""
    return 1000.0 * (num_bytes // sample_bytes(wire)) / wire_rate(wire)


def decode_base64(text: str, *, param: str, max_bytes: int = MAX_APPEND_BYTES) -> bytes:
    """Decode base64 from a client.

    Args:
        text: base64 without line breaks.
        param: the field that errors name.
        max_bytes: limit of the decoded bytes.

    Raises:
        RequestError: it is no base64, or too much.
    """
    if len(text) > 4 * math.ceil(max_bytes / 3):
        raise RequestError(
            f"Invalid '{param}': more than {max_bytes >> 20} MiB of audio in one event.",
            code="audio_too_large",
            param=param,
        )
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise RequestError(
            f"Invalid '{param}': expected base64-encoded audio bytes.",
            code="invalid_value",
            param=param,
        ) from None


def encode_base64(data: bytes) -> str:
    """Encode bytes for JSON."""
    return base64.b64encode(data).decode("ascii")


# ---- G.711 -------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _expand_table(law: Literal["audio/pcmu", "audio/pcma"]) -> NDArray[np.int16]:
    """16-bit value of every code (ITU-T G.711)."""
    codes = np.arange(256)
    if law == "audio/pcmu":
        codes = ~codes & 0xFF
        magnitude = ((((codes & 0x0F) << 3) + 0x84) << ((codes >> 4) & 7)) - 0x84
        return np.where(codes & 0x80, -magnitude, magnitude).astype(np.int16)
    codes ^= 0x55
    exponent, mantissa = (codes >> 4) & 7, (codes & 0x0F) << 4
    magnitude = np.where(
        exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0)
    )
    return np.where(codes & 0x80, magnitude, -magnitude).astype(np.int16)


@lru_cache(maxsize=2)
def _compress_table(law: Literal["audio/pcmu", "audio/pcma"]) -> NDArray[np.uint8]:
    """Code of every 16-bit value, from -32768 on (ITU-T G.711)."""
    values = np.arange(-32768, 32768)
    if law == "audio/pcmu":
        values = values >> 2  # µ-law is defined on 14 bits
        magnitude = np.minimum(np.abs(values), 8158) + 33
        exponent = np.floor(np.log2(magnitude)).astype(np.int64) - 5
        mantissa = (magnitude >> (exponent + 1)) & 0x0F
        sign = np.where(values < 0, 0x80, 0)
        return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8)
    values = values >> 3  # A-law is defined on 13 bits
    magnitude = np.where(values < 0, ~values, values)
    exponent = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int64) - 4, 0)
    mantissa = (magnitude >> np.maximum(exponent, 1)) & 0x0F
    sign = np.where(values < 0, 0, 0x80)
    return ((sign | (exponent << 4) | mantissa) ^ 0x55).astype(np.uint8)


def decode_audio(data: bytes, wire: WireFormat) -> Samples:
    """Decode whole samples to float32 [samples] at the format's own rate."""
    if wire == "audio/pcm":
        return np.frombuffer(data, "<i2") * np.float32(1 / 32768)
    codes = np.frombuffer(data, np.uint8)
    return _expand_table(wire)[codes] * np.float32(1 / 32768)


def encode_audio(samples: Samples, wire: WireFormat) -> bytes:
    """Encode float [samples] at the format's own rate; values are clipped to -1 to 1."""
    values = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    if wire == "audio/pcm":
        return values.tobytes()
    return _compress_table(wire)[values.astype(np.int64) + 32768].tobytes()


# ---- rate conversion ---------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _kernels(num_in: int, num_out: int) -> tuple[NDArray[np.float32], int]:
    """Windowed-sinc filter bank [2 * width + num_in, num_out], and the width."""
    cutoff = min(num_in, num_out) * _ROLLOFF
    width = math.ceil(_FILTER_WIDTH * num_in / cutoff)
    taps = np.arange(-width, width + num_in) / num_in
    phases = -np.arange(num_out) / num_out
    time = np.clip((phases[:, None] + taps) * cutoff, -_FILTER_WIDTH, _FILTER_WIDTH)
    window = np.cos(time * np.pi / _FILTER_WIDTH / 2) ** 2
    bank = np.sinc(time) * window * (cutoff / num_in)
    return np.ascontiguousarray(bank.T.astype(np.float32)), width


class StreamResampler:
    """Rate conversion of one stream; all pieces together equal the conversion of the whole.

    Args:
        source_rate: in Hz.
        target_rate: in Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        divisor = math.gcd(source_rate, target_rate)
        self._num_in, self._num_out = source_rate // divisor, target_rate // divisor
        self._bank, self._width = _kernels(self._num_in, self._num_out)
        self._held = np.zeros(self._width, np.float32)
        self._num_pushed = self._num_given = 0

    def push(self, samples: Samples) -> Samples:
        """Convert what can be converted now; the filter holds back less than 2 ms."""
        if self._num_in == self._num_out:
            return samples
        self._num_pushed += len(samples)
        converted = self._convert(np.concatenate([self._held, samples]))
        self._num_given += len(converted)
        return converted

    def flush(self) -> Samples:
        """The stream ends here: convert what is left."""
        if self._num_in == self._num_out:
            return np.zeros(0, np.float32)
        total = -(-self._num_pushed * self._num_out // self._num_in)
        tail = np.zeros(self._width + self._num_in, np.float32)
        rest = self._convert(np.concatenate([self._held, tail]))[: total - self._num_given]
        self._held = np.zeros(self._width, np.float32)
        self._num_pushed = self._num_given = 0
        return rest

    def _convert(self, held: Samples) -> Samples:
        span = len(self._bank)
        num_steps = max(0, (len(held) - span) // self._num_in + 1)
        self._held = held[num_steps * self._num_in :].copy()
        if num_steps == 0:
            return np.zeros(0, np.float32)
        # A view; numpy's own helpers cost as much as the filter for a frame of 20 ms.
        strides = (self._num_in * held.itemsize, held.itemsize)
        steps: Samples = np.ndarray((num_steps, span), held.dtype, held, 0, strides)
        return (steps @ self._bank).reshape(-1)


class InputDecoder:
    """Appended bytes to float32 at 16 kHz; joins samples that were split between appends.

    Args:
        wire: format of the bytes.
    """

    def __init__(self, wire: WireFormat) -> None:
        self.wire: WireFormat = wire
        self._odd = b""
        self._resampler = StreamResampler(wire_rate(wire), INPUT_RATE)

    def push(self, data: bytes) -> tuple[bytes, Samples]:
        """Decode an append.

        Returns:
            The bytes of whole samples, and what the engine hears now: float32 at 16 kHz.
        """
        data = self._odd + data
        whole = len(data) - len(data) % sample_bytes(self.wire)
        self._odd = data[whole:]
        return data[:whole], self._resampler.push(decode_audio(data[:whole], self.wire))


class OutputEncoder:
    """Spoken audio at 24 kHz to bytes for the client.

    Args:
        wire: format of the bytes.
    """

    def __init__(self, wire: WireFormat) -> None:
        self.wire: WireFormat = wire
        self._resampler = StreamResampler(OUTPUT_RATE, wire_rate(wire))

    def push(self, samples: Samples) -> bytes:
        """Encode the next piece."""
        return encode_audio(self._resampler.push(samples), self.wire)

    def flush(self) -> bytes:
        """Encode what the filter has held back."""
        return encode_audio(self._resampler.flush(), self.wire)


def transcode(data: bytes, source: WireFormat, target: WireFormat) -> bytes:
    """Whole recording from one format to another."""
    if source == target:
        return data
    resampler = StreamResampler(wire_rate(source), wire_rate(target))
    samples = resampler.push(decode_audio(data, source))
    return encode_audio(np.concatenate([samples, resampler.flush()]), target)


def to_input_samples(data: bytes, wire: WireFormat) -> Samples:
    """Whole recording to float32 [samples] at 16 kHz; an odd last byte is dropped."""
    whole = data[: len(data) - len(data) % sample_bytes(wire)]
    resampler = StreamResampler(wire_rate(wire), INPUT_RATE)
    return np.concatenate([resampler.push(decode_audio(whole, wire)), resampler.flush()])
