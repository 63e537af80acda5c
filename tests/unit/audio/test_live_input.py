"""Sound from a pipe."""

import io
import struct

import numpy as np
import pytest
import soundfile
import torch

from stepaudio.audio.io import load_audio
from stepaudio.audio.live_input import PcmFormat, live_blocks
from stepaudio.errors import AudioLoadError


class Dripping(io.RawIOBase):
    """A pipe that never gives many bytes at once."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._most, self._at = data, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece = self._data[self._at : self._at + min(self._most, len(buffer))]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def pipe(data: bytes, most: int = 999) -> io.BufferedReader:
    return io.BufferedReader(Dripping(data, most), 256)


def heard(data: bytes, format: PcmFormat | None = None) -> torch.Tensor:
    return torch.cat(list(live_blocks(pipe(data), format)))


@pytest.fixture(scope="module")
def sound():
    return np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 2)).astype(np.float32)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("rate", [16_000, 8000, 44_100])
def test_a_wav_that_drips_in_is_the_file(sound, subtype, rate, tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, sound, rate, subtype=subtype)
    expected = load_audio(path, mono="mean").samples
    found = heard(path.read_bytes())
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_writer_that_does_not_know_the_size(sound, tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, sound[:, 0], 16_000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert len(heard(bytes(data))) == 4000


def test_raw_samples(sound):
    pcm = (sound[:, 0] * 32767).astype("<i2")
    found = heard(pcm.tobytes() + b"\x01", PcmFormat(16_000))
    assert torch.allclose(found, torch.from_numpy(pcm.astype(np.float32) / 32768))
    assert len(heard(pcm.tobytes(), PcmFormat(8000))) == 8000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"this is not sound at all", "no WAV file"),
        (b"RIFF\0\0\0\0WAVE", "header is damaged"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0abcd", "header is damaged"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0ab", "header is damaged"),
        (
            b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 6, 1, 8000, 8000, 1, 8),
            "format 6 with 8 bits, 1 channels and 8000 Hz cannot be streamed",
        ),
    ],
)
def test_what_is_no_stream_of_sound(data, message):
    with pytest.raises(AudioLoadError, match=message):
        heard(data)


def test_no_samples_and_no_numbers():
    with pytest.raises(AudioLoadError, match="no samples"):
        heard(b"", PcmFormat())
    with pytest.raises(AudioLoadError, match="NaN"):
        heard(np.full(10, np.nan, "<f4").tobytes(), PcmFormat(dtype="<f4"))
