"""Decoders: encoded audio to blocks of mono float32 samples at the source's own rate.

soundfile reads wav, flac, ogg/opus and their kin. PyAV reads what soundfile refuses (m4a, webm,
the sound of videos), FLAC that was written to a pipe (libsndfile reports an error at its end) and
mp3: libsndfile stops at a length that it guesses where the header gives none (3.4 of 20 s in a
test) and writes warnings to stderr. Both are reached through `open_decoder`, which turns all that
can be wrong with a source into an AudioLoadError of one line.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from stepaudio.audio.truncation import is_mpeg_stream, is_truncated
from stepaudio.errors import AudioLoadError

if TYPE_CHECKING:
    import av

AudioSource = str | Path | bytes | BinaryIO
MonoMix = Literal["first", "mean"]
Samples = NDArray[np.float32]

_BLOCK_SAMPLES = 1 << 16
_UNKNOWN_FRAMES = 1 << 40  # libsndfile's answer for a stream of unknown length is far beyond
# Demuxers that PyAV may use. Playlists stay out: they make the demuxer open what they name.
_AV_FORMATS = (
    "mov,matroska,webm,aac,asf,avi,flv,mpegts,mpeg,amr,ac3,eac3,caf,"
    "ogg,flac,mp3,wav,w64,aiff,au,wv,ape,tta"
)
_AV_OPTIONS = {"format_whitelist": _AV_FORMATS, "protocol_whitelist": ""}
_PLAUSIBLE_RATES = range(1_000, 1_000_001)  # Hz; a resampler would take any memory for others
_MAX_LOST_S = 0.25  # a matroska file whose sound ends this much early was cut
_MAGICS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"\x1a\x45\xdf\xa3", b"FORM")


@dataclass(frozen=True)
class DecodedStream:
    """An open source.

    Attributes:
        name: how errors name the source.
        sample_rate: of the source, in Hz.
        num_samples: samples per channel that the source announces; None if it does not say.
        blocks: mono float32 blocks, [samples] each; reading may raise AudioLoadError.
    """

    name: str
    sample_rate: int
    num_samples: int | None
    blocks: Iterator[Samples]


def source_name(source: AudioSource) -> str:
    """How messages name a source: its path, or what it is. Never more than one line."""
    name = source if isinstance(source, str | Path) else getattr(source, "name", "audio data")
    return str(name).replace("\r", "\\r").replace("\n", "\\n")


@contextmanager
def open_decoder(
    source: AudioSource, *, mono: MonoMix = "first", name: str | None = None
) -> Iterator[DecodedStream]:
    """Open audio for reading block by block.

    Args:
        source: path, encoded bytes, or a binary file object (read from its start if it can seek,
            else to its end at once).
        mono: take channel 0 or the mean of all channels.
        name: how errors name the source; its path if omitted.

    Raises:
        AudioLoadError: the source is missing, not a file, unreadable, empty, cut off, corrupt,
            not audio, or a video without sound.
    """
    name = name or source_name(source)
    with ExitStack() as stack:
        handle = _open_handle(source, name, stack)
        size = handle.seek(0, os.SEEK_END)
        if size == 0:
            raise AudioLoadError(f"{name}: the file is empty (0 bytes)")
        if is_truncated(handle, size):
            raise AudioLoadError(f"{name}: the file is cut off: its header announces more data")
        sound = _open_soundfile(handle, stack)
        if sound is None:
            stream = _open_av(handle, name, mono, stack)
        else:
            blocks = _soundfile_blocks(sound, name, mono)
            stream = DecodedStream(name, sound.samplerate, sound.frames, blocks)
        if stream.sample_rate not in _PLAUSIBLE_RATES:
            raise AudioLoadError(
                f"{name}: its header is damaged: a sample rate of {stream.sample_rate} Hz"
            )
        yield stream


def _open_handle(source: AudioSource, name: str, stack: ExitStack) -> BinaryIO:
    """Return a seekable BytesIO or real file."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if not isinstance(source, str | Path):
        if source.seekable():
            source.seek(0)
        return io.BytesIO(source.read())
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode):
            os.listdir(source)  # an unreadable folder says so
            raise AudioLoadError(f"{name}: is a folder; expected audio, or a folder with audio")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise AudioLoadError(f"{name}: is a device or socket, not an audio file")
        # Unbuffered: libsndfile shares the descriptor, and with it the position.
        handle = stack.enter_context(open(source, "rb", buffering=0))
        return io.BytesIO(handle.read()) if stat.S_ISFIFO(mode) else handle
    except FileNotFoundError as error:
        raise AudioLoadError(f"{name}: no such file") from error
    except PermissionError as error:
        raise AudioLoadError(f"{name}: permission denied") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AudioLoadError(f"{name}: cannot be opened: {reason}") from error


def _open_soundfile(handle: BinaryIO, stack: ExitStack) -> soundfile.SoundFile | None:
    """Open with libsndfile, unless PyAV should read the file."""
    handle.seek(0)
    if is_mpeg_stream(handle.read(4)):
        return None
    handle.seek(0)
    try:
        # libsndfile reads a descriptor itself; file objects cost a callback per buffer.
        file = handle if isinstance(handle, io.BytesIO) else handle.fileno()
        sound = stack.enter_context(soundfile.SoundFile(file, closefd=False))
    except soundfile.LibsndfileError:
        return None
    unsure = sound.frames >= _UNKNOWN_FRAMES or sound.subtype.startswith("MPEG")
    return None if unsure else sound


def _to_mono(block: Samples, mono: MonoMix) -> Samples:
    """Mix [samples, channels] down to a new [samples]."""
    if mono == "first" or block.shape[1] == 1:
        return block[:, 0].copy()
    return block.mean(axis=1, dtype=np.float32)


def _soundfile_blocks(sound: soundfile.SoundFile, name: str, mono: MonoMix) -> Iterator[Samples]:
    done = 0
    while done < sound.frames:
        try:
            block = sound.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            block = np.empty((0, 1), dtype=np.float32)
        if len(block) == 0:
            at_s = done / sound.samplerate
            raise AudioLoadError(
                f"{name}: corrupt or cut off: {sound.format} decoding stopped behind {at_s:.1f} s"
            )
        done += len(block)
        yield _to_mono(block, mono)


def _open_av(handle: BinaryIO, name: str, mono: MonoMix, stack: ExitStack) -> DecodedStream:
    import av

    handle.seek(0)
    head = handle.read(12)
    handle.seek(0)
    try:
        # Old taggers did not write UTF-8.
        opened = av.open(handle, mode="r", options=_AV_OPTIONS, metadata_errors="replace")
        container = stack.enter_context(opened)
    except (av.FFmpegError, EOFError) as error:
        if head.startswith(_MAGICS) or head[4:8] == b"ftyp":
            raise AudioLoadError(f"{name}: corrupt or cut off: its header is incomplete") from error
        raise AudioLoadError(f"{name}: not audio in any format that can be decoded") from error
    if not container.streams.audio:
        raise AudioLoadError(f"{name}: has no audio track")
    frames = _av_frames(container, name)
    first = next(frames, None)
    if first is None:
        raise AudioLoadError(f"{name}: holds no samples")
    # The frame knows better than the header: HE-AAC doubles the announced rate.
    rate: int = first.sample_rate
    announced_s = _av_duration_s(container)
    blocks = _av_blocks(chain([first], frames), container, name, mono)
    return DecodedStream(
        name, rate, None if announced_s is None else round(announced_s * rate), blocks
    )


def _av_duration_s(container: av.container.InputContainer) -> float | None:
    """Announced duration of the first audio track, None if the container does not say."""
    import av

    track = container.streams.audio[0]
    if track.duration is not None and track.time_base is not None:
        return float(track.duration * track.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _av_frames(container: av.container.InputContainer, name: str) -> Iterator[av.AudioFrame]:
    import av

    # Tags and junk between mp3 frames are common (joined files), and every frame is checked.
    lenient = container.format.name == "mp3"
    at_s = 0.0
    try:
        for packet in container.demux(container.streams.audio[0]):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if not lenient:
                    raise
                continue
            for frame in frames:
                at_s += frame.samples / frame.sample_rate
                yield frame
    except (av.FFmpegError, EOFError) as error:
        kind = container.format.name.split(",")[0]
        raise AudioLoadError(
            f"{name}: corrupt or cut off: {kind} decoding stopped behind {at_s:.1f} s"
        ) from error


def _av_blocks(
    frames: Iterator[av.AudioFrame],
    container: av.container.InputContainer,
    name: str,
    mono: MonoMix,
) -> Iterator[Samples]:
    pending: list[Samples] = []
    done, rate = 0, 0
    for frame in frames:
        if rate not in (0, frame.sample_rate):
            raise AudioLoadError(
                f"{name}: its sample rate changes from {rate} to {frame.sample_rate} Hz midway"
            )
        rate = frame.sample_rate
        pending.append(_to_mono(_frame_samples(frame), mono))
        done += frame.samples
        if sum(map(len, pending)) >= _BLOCK_SAMPLES:
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)
    # Only matroska passes over a cut in silence. A video may announce the length of its picture.
    announced_s = None if container.streams.video else _av_duration_s(container)
    if "matroska" in container.format.name and announced_s is not None:
        if done / rate < announced_s - _MAX_LOST_S:
            raise AudioLoadError(
                f"{name}: the file is cut off: {done / rate:.1f} of {announced_s:.1f} s are there"
            )


def _frame_samples(frame: av.AudioFrame) -> Samples:
    """Samples of a frame as float32 [samples, channels]."""
    values: NDArray[Any] = frame.to_ndarray()
    channels = len(frame.layout.channels)
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if values.dtype.kind == "u":
        return (values.astype(np.float32) - 128.0) / 128.0
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32)
