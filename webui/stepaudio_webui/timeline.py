"""A recording to look at: waveform, spectrogram and words over one time axis, as HTML.

What the browser does with it is in ``static/timeline.js``: whatever has a ``data-start`` plays
from there.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stepaudio.audio.frames import HOP_LENGTH, SAMPLE_RATE

if TYPE_CHECKING:
    from stepaudio.tasks.transcript import Segment, Transcript, Word

Samples = NDArray[np.float32]

PIXELS_PER_S = 120
TILE_S = 20  # browsers refuse very wide pictures, and load those that are not seen later
WAVE_COLUMNS_PER_S = 200
WAVE_HEIGHT = 64
NUM_MELS = 80
UNSURE = 0.5  # words of less confidence are marked
_WAVE_COLOUR = (20, 163, 148)  # readable on white and on black
_TICKS_S = 1


@dataclass(frozen=True)
class Tile:
    """Pictures of at most `TILE_S` seconds, both as PNG files."""

    duration_s: float
    wave: bytes
    mel: bytes


# ---- pictures ------------------------------------------------------------------------------------


def draw_tiles(samples: Samples) -> list[Tile]:
    """Draw a recording, float32 [samples] at 16 kHz.

    The loudest sample fills the height, and the colours span what is in this recording, so that
    quiet ones can be seen too.
    """
    size = TILE_S * SAMPLE_RATE
    parts = [samples[at : at + size] for at in range(0, len(samples), size)]
    peak = float(np.abs(samples).max(initial=0.0)) or 1.0
    mels = [_log_mel(part) for part in parts]
    lowest, highest = _range(mels)
    return [
        Tile(
            len(part) / SAMPLE_RATE,
            _png(_wave_picture(part / np.float32(peak)), [(0, 0, 0), _WAVE_COLOUR], clear=0),
            _png(_scaled(mel, lowest, highest), _palette()),
        )
        for part, mel in zip(parts, mels, strict=True)
    ]


def _log_mel(part: Samples) -> Samples:
    """[mels, frames], the lowest frequency in the last row."""
    import torch

    from stepaudio.audio.mel import log_mel

    if len(part) < HOP_LENGTH:
        part = np.pad(part, (0, HOP_LENGTH - len(part)))
    mel = log_mel(torch.from_numpy(np.ascontiguousarray(part)), NUM_MELS, floor="fixed")
    picture: Samples = mel.numpy()[::-1, : math.ceil(len(part) / HOP_LENGTH)]
    return picture


def _range(mels: Sequence[Samples]) -> tuple[float, float]:
    if not mels:
        return 0.0, 1.0
    values = np.concatenate([mel[:, ::10].ravel() for mel in mels])
    lowest, highest = np.percentile(values, [5, 99.7])
    return float(lowest), max(float(highest), float(lowest) + 0.1)


def _scaled(mel: Samples, lowest: float, highest: float) -> NDArray[np.uint8]:
    scaled = np.clip((mel - lowest) / (highest - lowest), 0.0, 1.0)
    return (255 * scaled).astype(np.uint8)


def _wave_picture(part: Samples) -> NDArray[np.uint8]:
    """[height, columns] of 0 and 1: from the lowest to the highest sample of each column."""
    step = SAMPLE_RATE // WAVE_COLUMNS_PER_S
    num_columns = math.ceil(len(part) / step)
    columns = np.pad(part, (0, num_columns * step - len(part))).reshape(num_columns, step)
    middle = (WAVE_HEIGHT - 1) / 2
    top = np.floor(middle - middle * columns.max(axis=1))
    bottom = np.ceil(middle - middle * columns.min(axis=1))
    rows = np.arange(WAVE_HEIGHT)[:, None]
    return ((rows >= top) & (rows <= bottom)).astype(np.uint8)


def _palette() -> list[tuple[int, int, int]]:
    import matplotlib

    colours = matplotlib.colormaps["magma"](np.linspace(0.0, 1.0, 256), bytes=True)
    return [(int(red), int(green), int(blue)) for red, green, blue, _ in colours]


def _png(
    picture: NDArray[np.uint8], palette: list[tuple[int, int, int]], clear: int | None = None
) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.putpalette([value for colour in palette for value in colour])
    data = io.BytesIO()
    options = {} if clear is None else {"transparency": clear}
    image.save(data, "PNG", **options)
    return data.getvalue()


# ---- HTML ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlayerFiles:
    """Where the browser finds a recording: its sound, and two pictures of each tile.

    Attributes:
        audio: address of the sound.
        tiles: seconds, address of the waveform and of the spectrogram.
    """

    audio: str
    tiles: tuple[tuple[float, str, str], ...]


def save_player_files(samples: Samples, folder: Path, address: str) -> PlayerFiles:
    """Write what the browser needs into a folder.

    Args:
        samples: float32 [samples] at 16 kHz.
        folder: a new one.
        address: under which the browser finds the files of this folder.

    Raises:
        OutputError: they cannot be written.
    """
    from stepaudio.atomic import write_bytes_atomic
    from stepaudio.audio.io import save_audio

    folder.mkdir(parents=True)
    save_audio(folder / "audio.wav", samples)  # a browser seeks in it to the sample
    tiles: list[tuple[float, str, str]] = []
    for index, tile in enumerate(draw_tiles(samples)):
        wave, mel = f"wave{index}.png", f"mel{index}.png"
        write_bytes_atomic(folder / wave, tile.wave)
        write_bytes_atomic(folder / mel, tile.mel)
        tiles.append((tile.duration_s, f"{address}/{wave}", f"{address}/{mel}"))
    return PlayerFiles(f"{address}/audio.wav", tuple(tiles))


def render_player(transcript: Transcript, files: PlayerFiles) -> str:
    """HTML of a recording and what was heard in it."""
    duration_s = sum(seconds for seconds, _, _ in files.tiles)
    words = [word for segment in transcript.segments for word in segment.words]
    text = "".join(_paragraph(s, is_first=i == 0) for i, s in enumerate(transcript.segments))
    if not transcript.segments:
        text = '<p class="tl-none">No speech was found in this recording.</p>'
    return (
        '<div class="tl" data-testid="timeline">'
        f'<audio controls preload="auto" src="{html.escape(files.audio)}"></audio>'
        '<div class="tl-strip" role="img" aria-label="Waveform, spectrogram and words; the words '
        'below can be used with the keyboard">'
        f'<div class="tl-canvas" style="width:{duration_s * PIXELS_PER_S:.0f}px" '
        f'data-duration="{duration_s:.3f}">'
        f'<div class="tl-labels">{"".join(_labels(words, duration_s))}</div>'
        f'<div class="tl-waves">{"".join(_images(files, 1, duration_s))}</div>'
        f'<div class="tl-mels">{"".join(_images(files, 2, duration_s))}</div>'
        f'<div class="tl-ticks">{"".join(_ticks(duration_s))}</div>'
        '<div class="tl-head"></div></div></div>'
        f'<div class="tl-text" data-testid="transcript">{text}</div></div>'
    )


def clock(seconds: float) -> str:
    """Time as people write it.

    >>> clock(3.94), clock(61.26), clock(3600)
    ('0:03.9', '1:01.3', '1:00:00.0')
    """
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest // 10:02}.{rest % 10}"
    return f"{hours}:{minutes:02}:{shown}" if hours else f"{minutes}:{shown}"


def _paragraph(segment: Segment, *, is_first: bool) -> str:
    time = (
        f'<button type="button" class="tl-time" tabindex="-1" data-start="{segment.start:.3f}">'
        f"{clock(segment.start)}</button>"
    )
    if not segment.words:
        body = _button(segment.text, segment.start, segment.end, None, is_first=is_first)
    else:
        body = " ".join(
            _button(word.text, word.start, word.end, word.confidence, is_first=is_first and i == 0)
            for i, word in enumerate(segment.words)
        )
    return f'<p class="tl-segment">{time}<span>{body}</span></p>'


def _button(
    text: str, start: float, end: float, confidence: float | None, *, is_first: bool
) -> str:
    """A word; only the first one is a stop of the tabulator, the arrow keys do the rest."""
    marks = " tl-unsure" if confidence is not None and confidence < UNSURE else ""
    sure = "" if confidence is None else f", {confidence:.0%} sure"
    return (
        f'<button type="button" class="tl-word{marks}" tabindex="{0 if is_first else -1}" '
        f'data-start="{start:.3f}" data-end="{end:.3f}" '
        f'title="{clock(start)} to {clock(end)}{sure}">{html.escape(text)}</button>'
    )


def _labels(words: Sequence[Word], duration_s: float) -> Iterator[str]:
    for index, word in enumerate(words):
        yield (
            f'<span class="tl-label" data-start="{word.start:.3f}" data-end="{word.end:.3f}" '
            f'data-row="{index % 2}" style="left:{_share(word.start, duration_s)};'
            f'width:{_share(word.end - word.start, duration_s)}">{html.escape(word.text)}</span>'
        )


def _images(files: PlayerFiles, which: int, duration_s: float) -> Iterator[str]:
    for tile in files.tiles:
        yield (
            f'<img loading="lazy" alt="" draggable="false" src="{html.escape(str(tile[which]))}" '
            f'style="width:{_share(tile[0], duration_s)}">'
        )


def _ticks(duration_s: float) -> Iterator[str]:
    for second in range(0, math.ceil(duration_s), _TICKS_S):
        shown = f"{second // 60}:{second % 60:02}"
        yield f'<span style="left:{_share(second, duration_s)}">{shown}</span>'


def _share(seconds: float, duration_s: float) -> str:
    """Part of the time axis, which is as wide as the page where the recording is short."""
    return f"{100 * seconds / duration_s:.4f}%" if duration_s else "0"
