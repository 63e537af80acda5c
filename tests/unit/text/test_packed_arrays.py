"""Compressed arrays come back as they were, or say what is wrong."""

import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.text import packed_arrays
from stepaudio.text.packed_arrays import pack, unpack

KINDS = [np.uint8, np.uint16, np.int64, np.float16, np.float32]


@given(values=st.lists(st.integers(0, 255), max_size=40), kind=st.sampled_from(KINDS))
def test_arrays_come_back(values: list[int], kind: type[np.generic]) -> None:
    array = np.array(values).astype(kind)
    packed, types = pack({"one": array, "two": array[::2]})
    arrays = unpack(packed, types)
    assert arrays["one"].dtype == array.dtype
    assert np.array_equal(arrays["one"], array) and np.array_equal(arrays["two"], array[::2])


def test_numbers_that_grow_slowly_take_little_room() -> None:
    array = np.arange(5000, dtype=np.uint16) // 50
    packed, _ = pack({"counts": array})
    assert packed["counts"].nbytes < array.nbytes / 20


def test_damage_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, types = pack({"one": np.arange(300, dtype=np.uint16)})
    with pytest.raises(KeyError):
        unpack(packed, {})
    with pytest.raises(ValueError, match="one: cut off"):
        unpack({"one": packed["one"][:-8]}, types)
    with pytest.raises(ValueError, match="one"):
        unpack({"one": packed["one"][::-1]}, types)
    with pytest.raises(ValueError, match="type object"):
        unpack(packed, {"one": "O"})
    odd = np.frombuffer(lzma.compress(b"abc"), np.uint8)
    with pytest.raises(ValueError, match="cut off"):
        unpack({"one": odd}, types)
    monkeypatch.setattr(packed_arrays, "_MAX_BYTES", 100)
    with pytest.raises(ValueError, match="too large"):
        unpack(packed, types)
