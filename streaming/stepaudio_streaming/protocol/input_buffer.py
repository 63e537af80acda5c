"""The input audio buffer of a session, and the clock of all audio that was ever appended."""

from __future__ import annotations

from stepaudio.errors import RequestError
from stepaudio_streaming.audio import (
    PCM_RATE,
    InputDecoder,
    WireFormat,
    sample_bytes,
    transcode,
    wire_rate,
)
from stepaudio_streaming.events import Samples

MIN_COMMIT_MS = 100.0


class InputBuffer:
    """Audio that was appended and is not yet part of an item, in the client's format.

    Args:
        wire: format of the client.
        max_s: the buffer never holds more than this.
    """

    def __init__(self, wire: WireFormat, *, max_s: float) -> None:
        self._data = bytearray()
        self._max_s = max_s
        self._set_format(wire)
        self._end_ticks = 0  # of 1 / 24000 s

    @property
    def wire(self) -> WireFormat:
        """Format of the client."""
        return self._decoder.wire

    @property
    def clock_ms(self) -> int:
        """Duration of all audio ever appended."""
        return self._end_ticks * 1000 // PCM_RATE

    @property
    def buffered_ms(self) -> float:
        """Duration of the audio in the buffer."""
        return self.duration_ms(self._data)

    def duration_ms(self, data: bytes | bytearray) -> float:
        """Duration of audio in the client's format."""
        return 1000.0 * len(data) / self._bytes_per_s

    def _set_format(self, wire: WireFormat) -> None:
        self._decoder = InputDecoder(wire)
        self._bytes_per_s = sample_bytes(wire) * wire_rate(wire)

    def append(self, data: bytes, *, rolling: bool = False) -> Samples:
        """Add audio.

        Args:
            data: bytes in the client's format; samples may be split between appends.
            rolling: a full buffer forgets its oldest audio instead of refusing more.

        Returns:
            What the engine hears now, float32 at 16 kHz.

        Raises:
            RequestError: the buffer is full.
        """
        excess = len(self._data) + len(data) - int(self._max_s * self._bytes_per_s)
        if excess > 0 and rolling:
            del self._data[: excess + excess % sample_bytes(self.wire)]
        elif excess > 0:
            raise RequestError(
                f"The input audio buffer is full: commit or clear it before it holds more than "
                f"{self._max_s:g} s.",
                code="input_audio_buffer_full",
                param="audio",
            )
        whole, samples = self._decoder.push(data)
        self._data += whole
        self._end_ticks += len(whole) * PCM_RATE // self._bytes_per_s
        return samples

    def change_format(self, wire: WireFormat) -> None:
        """Appends are in another format from now on."""
        if wire == self.wire:
            return
        self._data = bytearray(transcode(bytes(self._data), self.wire, wire))
        self._set_format(wire)

    def require_commit(self) -> None:
        """Make sure that there is enough for an item.

        Raises:
            RequestError: less than 100 ms.
        """
        if self.buffered_ms < MIN_COMMIT_MS:
            raise RequestError(
                "Error committing input audio buffer: buffer too small. Expected at least "
                f"{MIN_COMMIT_MS:.0f}ms of audio, but buffer only has {self.buffered_ms:.2f}ms of "
                "audio.",
                code="input_audio_buffer_commit_empty",
            )

    def take_all(self) -> bytes:
        """Take everything out."""
        data = bytes(self._data)
        self._data.clear()
        return data

    def take(self, start_ms: int, end_ms: int) -> bytes:
        """Take out everything until `end_ms`; returns what lies behind `start_ms`."""
        self.drop_before(start_ms)
        num_bytes = self._offset(end_ms)
        data = bytes(self._data[:num_bytes])
        del self._data[:num_bytes]
        return data

    def drop_before(self, time_ms: int) -> None:
        """Forget what was heard before."""
        del self._data[: self._offset(time_ms)]

    def clear(self) -> None:
        """Forget everything; the clock goes on."""
        self._data.clear()

    def _offset(self, time_ms: int) -> int:
        """Index of the first byte behind a time of the clock."""
        back = (self._end_ticks - time_ms * PCM_RATE // 1000) * wire_rate(self.wire) // PCM_RATE
        return min(max(0, len(self._data) - back * sample_bytes(self.wire)), len(self._data))
