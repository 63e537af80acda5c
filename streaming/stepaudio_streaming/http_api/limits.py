"""How long an uploaded recording is, found out within limits of length and time."""

from __future__ import annotations

import time
from collections.abc import Callable

from stepaudio.audio.decoding import open_decoder
from stepaudio.errors import AudioLoadError

_MAX_WORK_S = 60.0


def limited_duration_s(
    audio: bytes,
    *,
    name: str,
    max_s: float,
    max_work_s: float = _MAX_WORK_S,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Duration in seconds, from the header where that tells, else by decoding.

    A small file may hold days of silence: decoding stops at the limit.

    Args:
        audio: encoded.
        name: how errors name it.
        max_s: longer recordings are refused.
        max_work_s: so are those that take longer to decode.
        clock: seconds of a steady clock.

    Raises:
        AudioLoadError: it cannot be read, is too long, or takes too long to decode.
    """
    started = clock()
    with open_decoder(audio, name=name) as stream:
        if stream.num_samples is not None:
            duration_s = stream.num_samples / stream.sample_rate
            if duration_s > max_s:
                raise AudioLoadError(too_long(name, max_s))
            return duration_s
        num_samples = 0
        for block in stream.blocks:
            num_samples += len(block)
            if num_samples > max_s * stream.sample_rate:
                raise AudioLoadError(too_long(name, max_s))
            if clock() - started > max_work_s:
                raise AudioLoadError(
                    f"{name}: takes more than {max_work_s:g} s to decode; send it in another format"
                )
        return num_samples / stream.sample_rate


def too_long(name: str, max_s: float) -> str:
    """Message about a recording that is longer than allowed."""
    return f"{name}: longer than the limit of {max_s:g} s; send it in parts"
