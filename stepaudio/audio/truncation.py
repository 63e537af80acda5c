"""Recognise audio files that were cut off, from what their containers announce.

Decoders read a shortened wav, mp3 or ogg file to the cut and report success. FLAC, m4a and webm
need no help here: their decoders notice.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

# Writers miscount headers and tags by less than this; it is below 0.1 s of 16-bit 16 kHz sound.
_SLACK_BYTES = 2048
# Sizes from here on mean "unknown": the file was written to a pipe.
_STREAMED_BYTES = 0x7FFF_F000
_ID3_HEADER = 10
_XING_REACH = 200  # the Xing tag starts within the side information of the first mp3 frame
_OGG_HEADER = 27
_MAX_OGG_PAGE = _OGG_HEADER + 255 + 255 * 255


def is_truncated(handle: BinaryIO, size: int) -> bool:
    """Tell whether a file announces more data than it holds.

    Detected: wav and aiff (size of the data), mp3 with a Xing or Info header (byte count), ogg
    (the last page is cut). Files written to a pipe announce nothing and pass, and so do mp3 files
    without that header and an ogg stream that stops between two pages.

    Args:
        handle: seekable file, left at an arbitrary position.
        size: bytes in the file.
    """
    handle.seek(0)
    magic = handle.read(4)
    if magic == b"RIFF":
        return _wav_missing_bytes(handle, size) > _SLACK_BYTES
    if magic == b"FORM":
        (announced,) = struct.unpack(">I", handle.read(4).ljust(4, b"\0"))
        return int(announced) + 8 - size > _SLACK_BYTES
    if magic == b"OggS":
        return _ogg_page_is_cut(handle, size)
    if is_mpeg_stream(magic):
        return _mp3_missing_bytes(handle, size) > _SLACK_BYTES
    return False


def _wav_missing_bytes(handle: BinaryIO, size: int) -> int:
    position = 12
    while position + 8 <= size:
        handle.seek(position)
        chunk, length = struct.unpack("<4sI", handle.read(8))
        position += 8
        if chunk == b"data":
            return 0 if length >= _STREAMED_BYTES else position + length - size
        position += length + length % 2
    return 0


def is_mpeg_stream(head: bytes) -> bool:
    """Tell whether a file that begins so is an mp3 or bare AAC stream."""
    return head[:3] == b"ID3" or _is_mp3_sync(head)


def _is_mp3_sync(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _mp3_missing_bytes(handle: BinaryIO, size: int) -> int:
    handle.seek(0)
    head = handle.read(_ID3_HEADER)
    start = 0
    if head[:3] == b"ID3" and len(head) == _ID3_HEADER:
        # Seven bits of every byte count, so that no sync word appears in the size.
        start = _ID3_HEADER + sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)
        )
    handle.seek(start)
    frame = handle.read(_XING_REACH)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if not _is_mp3_sync(frame) or at < 0 or at + 16 > len(frame):
        return 0
    flags, first, second = struct.unpack(">III", frame[at + 4 : at + 16])
    if not flags & 2:
        return 0
    announced: int = second if flags & 1 else first
    return start + announced - size


def _ogg_page_is_cut(handle: BinaryIO, size: int) -> bool:
    handle.seek(max(0, size - 2 * _MAX_OGG_PAGE))
    tail = handle.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return False
    page = tail[at:]
    if len(page) < _OGG_HEADER:
        return True
    lacing = page[_OGG_HEADER : _OGG_HEADER + page[_OGG_HEADER - 1]]
    whole = _OGG_HEADER + page[_OGG_HEADER - 1] + sum(lacing)
    return len(page) < whole
