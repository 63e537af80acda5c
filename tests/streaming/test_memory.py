"""Free memory goes back to the system."""

import asyncio
import gc
import os
import sys
import weakref
from collections.abc import Iterator

import psutil
import pytest

from stepaudio_streaming.memory import (
    KERNEL_CACHES,
    bound_kernel_caches,
    keep_memory_small,
    trimmer,
)

needs_glibc = pytest.mark.skipif(sys.platform != "linux" or trimmer() is None, reason="needs glibc")


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


class Ring:
    """Refers to itself, as sessions do."""

    def __init__(self) -> None:
        self.me = self


@needs_glibc
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


def test_what_is_over_is_forgotten_however_much_there_is_besides() -> None:
    async def main() -> bool:
        task = asyncio.create_task(keep_memory_small(0.01))
        await asyncio.sleep(0)  # it has begun
        ring = Ring()
        gc.collect()  # now it is old
        gone = weakref.ref(ring)
        del ring
        for _ in range(500):
            await asyncio.sleep(0.01)
            if gone() is None:
                break
        task.cancel()
        return gone() is None

    gc.disable()  # which forgets old things when as many new ones have come as a server never sees
    try:
        assert asyncio.run(main())
    finally:
        gc.enable()


def test_what_a_server_has_imported_is_not_visited_again() -> None:
    imported = Ring()

    async def main() -> int:
        task = asyncio.create_task(keep_memory_small(60.0))
        await asyncio.sleep(0)
        task.cancel()
        return len(gc.get_objects())

    before = len(gc.get_objects())
    assert asyncio.run(main()) < before / 10
    assert imported.me is imported
