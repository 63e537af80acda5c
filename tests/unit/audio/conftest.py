import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

SOUNDFILE_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "aiff": ("AIFF", "PCM_16"),
}
AV_FORMATS = {"m4a": ("mp4", "aac"), "webm": ("webm", "libopus"), "aac": ("adts", "aac")}

Samples = np.ndarray
Encode = Callable[..., bytes]


def chirp(duration_s: float, rate: int, channels: int = 1) -> Samples:
    """Rising tone of amplitude 0.5; further channels are silent. float32 [samples, channels]."""
    t = np.arange(round(duration_s * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * (200 + 150 * t / max(duration_s, 1e-9)) * t)
    sound = np.zeros((len(t), channels), dtype=np.float32)
    sound[:, 0] = tone
    return sound


def encode_av(sound: Samples, rate: int, container: str, codec: str, video: bool = False) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as muxer:
        layout = "mono" if sound.shape[1] == 1 else "stereo"
        packets: list[av.Packet] = []
        # All tracks are added before the first packet is written.
        track = muxer.add_stream(codec, rate=rate, layout=layout) if len(sound) else None
        if video:
            picture = muxer.add_stream("mpeg4", rate=10)
            picture.width = picture.height = 32
            image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            packets += [*picture.encode(image), *picture.encode(None)]
        if track is not None:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray((sound * 32767).astype(np.int16).reshape(1, -1)),
                format="s16",
                layout=layout,
            )
            frame.sample_rate = rate
            frame.time_base = Fraction(1, rate)
            packets += [*track.encode(frame), *track.encode(None)]
        for packet in packets:
            muxer.mux(packet)
    return out.getvalue()


def encode(sound: Samples, rate: int, kind: str) -> bytes:
    if kind in AV_FORMATS:
        return encode_av(sound, rate, *AV_FORMATS[kind])
    container, subtype = SOUNDFILE_FORMATS[kind]
    out = io.BytesIO()
    soundfile.write(out, sound, rate, format=container, subtype=subtype)
    return out.getvalue()


@pytest.fixture
def write_audio(tmp_path: Path) -> Callable[..., Path]:
    """Write a chirp of some kind and return its path."""

    def write(
        kind: str, duration_s: float = 1.0, rate: int = 16_000, channels: int = 1, keep: float = 1.0
    ) -> Path:
        data = encode(chirp(duration_s, rate, channels), rate, kind)
        path = tmp_path / f"chirp.{kind}"
        path.write_bytes(data[: round(keep * len(data))])
        return path

    return write
