"""Free memory goes back to the system."""

import asyncio
import os
import sys

import psutil
import pytest

from stepaudio_streaming.memory import (
    KERNEL_CACHES,
    bound_kernel_caches,
    keep_memory_small,
    trimmer,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux" or trimmer() is None, reason="needs glibc")


def test_holes_in_the_heap_are_given_back() -> None:
    process = psutil.Process()
    blocks = [bytearray(60_000) for _ in range(2000)]
    last = bytearray(60_000)  # at the top of the heap, which cannot shrink below it
    full = process.memory_info().rss
    del blocks

    async def main() -> None:
        task = asyncio.create_task(keep_memory_small(0.01))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if process.memory_info().rss < full - (60 << 20):
                break
        task.cancel()

    asyncio.run(main())
    assert full - process.memory_info().rss > 60 << 20 and len(last) == 60_000


@pytest.mark.parametrize("name", KERNEL_CACHES)
def test_the_environment_decides_how_many_kernels_are_kept(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "7")
    bound_kernel_caches()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    bound_kernel_caches()
    assert 0 < int(os.environ[name]) < 1024
