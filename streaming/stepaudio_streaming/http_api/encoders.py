"""Speech to bytes of a file, piece by piece."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import av
import numpy as np

from stepaudio_streaming.audio import encode_audio
from stepaudio_streaming.events import OUTPUT_RATE, Samples

AudioFileFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
MEDIA_TYPES: dict[AudioFileFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_UNKNOWN_SIZE = 0xFFFFFFFF  # of a wav file whose end is not known when its header is sent


class FileEncoder(ABC):
    """Encodes one stream of speech, float32 [samples] at 24 kHz."""

    @abstractmethod
    def push(self, samples: Samples) -> bytes:
        """Encode the next piece; returns what can be sent now."""

    @abstractmethod
    def flush(self) -> bytes:
        """End the file."""


class _Pcm(FileEncoder):
    def push(self, samples: Samples) -> bytes:
        return encode_audio(samples, "audio/pcm")

    def flush(self) -> bytes:
        return b""


class _StreamedWav(_Pcm):
    def __init__(self) -> None:
        self._header = wav_header(None)

    def push(self, samples: Samples) -> bytes:
        header, self._header = self._header, b""
        return header + super().push(samples)

    def flush(self) -> bytes:
        return self._header


class _Sink:
    """File that can only be written: muxers do not go back to fill in what they did not know."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class _Compressed(FileEncoder):
    def __init__(self, container: str, codec: str, options: dict[str, str]) -> None:
        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format=container, options=options)
        self._stream = self._container.add_stream(codec, rate=OUTPUT_RATE)
        assert isinstance(self._stream, av.AudioStream)
        self._stream.layout = "mono"
        self._num_samples = 0

    def push(self, samples: Samples) -> bytes:
        if not len(samples):
            return b""
        values = np.frombuffer(encode_audio(samples, "audio/pcm"), "<i2")
        frame = av.AudioFrame.from_ndarray(values[None], format="s16", layout="mono")
        frame.sample_rate = OUTPUT_RATE
        frame.pts = self._num_samples
        self._num_samples += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        return self._sink.take()

    def flush(self) -> bytes:
        if not self._num_samples:
            self.push(np.zeros(1, np.float32))  # a file without a frame is no file
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        return self._sink.take()


_ENCODERS: dict[AudioFileFormat, Callable[[], FileEncoder]] = {
    "pcm": _Pcm,
    "wav": _StreamedWav,
    "mp3": lambda: _Compressed("mp3", "libmp3lame", {"write_xing": "0", "id3v2_version": "0"}),
    # A page is sent when it is full; by default that takes a second.
    "opus": lambda: _Compressed("ogg", "libopus", {"page_duration": "100000"}),
    "aac": lambda: _Compressed("adts", "aac", {}),
    "flac": lambda: _Compressed("flac", "flac", {}),
}


def file_encoder(file_format: AudioFileFormat) -> FileEncoder:
    """Encoder whose output can be sent while the speech goes on."""
    return _ENCODERS[file_format]()


def encode_file(samples: Samples, file_format: AudioFileFormat) -> bytes:
    """Encode whole speech; unlike a streamed one, a wav file has exact sizes."""
    if file_format == "wav":
        data = encode_audio(samples, "audio/pcm")
        return wav_header(len(data)) + data
    encoder = file_encoder(file_format)
    return encoder.push(samples) + encoder.flush()


def wav_header(num_bytes: int | None) -> bytes:
    """Header of a PCM16 mono file with so much data; None: nobody knows how much."""
    data = _UNKNOWN_SIZE if num_bytes is None else num_bytes
    riff = _UNKNOWN_SIZE if num_bytes is None else num_bytes + 36
    head = struct.pack("<4sI4s4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16)
    form = struct.pack("<HHIIHH", 1, 1, OUTPUT_RATE, 2 * OUTPUT_RATE, 2, 16)
    return head + form + struct.pack("<4sI", b"data", data)
