"""Memory that the C library keeps for itself, given back to the system now and then.

Tensors of ever different sizes leave holes in the heaps of several threads. glibc keeps the pages
of those holes, so that a server grows for hours although it holds nothing more.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

INTERVAL_S = 60.0


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
