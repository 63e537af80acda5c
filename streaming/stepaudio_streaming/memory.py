"""Memory that nobody needs any more: bounded, and given back to the system now and then.

A session that is over is a ring of objects, which only Python's collector frees. It visits old
objects when a quarter as many have become old since: a server's imports are half a million, so that
in seven minutes of speech it did not once, and every session that had ended kept 2 MB of sound.

Tensors of ever different sizes leave holes in the heaps of several threads. glibc keeps the pages
of those holes, so that a server grows for hours although it holds nothing more. oneDNN keeps the
kernels of the last thousand shapes that it has met, 256 KiB each, and torch what oneDNN has planned
for the last thousand; speech has a new length every time.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from collections.abc import Callable

INTERVAL_S = 60.0
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's, torch's
_NUM_KERNELS = "32"  # making one anew takes less time than a step


def bound_kernel_caches() -> None:
    """Let few kernels be kept, unless the environment says otherwise; before the first one."""
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, _NUM_KERNELS)


def trimmer() -> Callable[[], None] | None:
    """What gives free pages back; None: this system's C library has no such thing."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no symbol; no library; Windows
        return None
    trim.argtypes = [ctypes.c_size_t]

    def give_back() -> None:
        trim(0)

    return give_back


async def keep_memory_small(interval_s: float = INTERVAL_S) -> None:
    """Free and give back memory every so often, in a thread beside, until cancelled.

    To be begun behind the imports and before the first session: what exists now is taken to stay,
    so that looking for what is over holds nobody up for longer than a frame of sound (16 ms instead
    of 300 ms with four sessions).
    """
    gc.collect()
    gc.freeze()
    give_back = trimmer()
    while True:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(_tidy, give_back)


def _tidy(give_back: Callable[[], None] | None) -> None:
    gc.collect()
    if give_back is not None:
        give_back()
