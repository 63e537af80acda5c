"""Memory that libraries keep for themselves: bounded, and given back to the system now and then.

Tensors of ever different sizes leave holes in the heaps of several threads. glibc keeps the pages
of those holes, so that a server grows for hours although it holds nothing more. oneDNN keeps the
kernels of the last thousand shapes that it has met, 256 KiB each, and torch what oneDNN has planned
for the last thousand; speech has a new length every time.
"""

from __future__ import annotations

import asyncio
import ctypes
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
    """Give memory back every so often, in a thread beside, until cancelled."""
    give_back = trimmer()
    while give_back is not None:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(give_back)
