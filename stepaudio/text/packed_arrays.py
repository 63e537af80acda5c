"""Arrays of small numbers, compressed for a file: what repeats itself takes no room in it."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

_MAX_BYTES = 1 << 28  # of an unpacked array: a damaged file must not fill the memory
_MAX_MEMORY = 1 << 26  # of the decompressor
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 22}]

Arrays = Mapping[str, NDArray[np.generic]]


def pack(arrays: Arrays) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    """Compress arrays of one dimension.

    The high bytes of all numbers come first, then their low bytes: the former hardly differ.

    Returns:
        Compressed bytes, and the type of every array's numbers, by name.
    """
    packed = {}
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array)
        planes = flat.view(np.uint8).reshape(len(flat), flat.itemsize)[:, ::-1]
        data = lzma.compress(np.ascontiguousarray(planes.T).tobytes(), filters=_FILTERS)
        packed[name] = np.frombuffer(data, np.uint8)
    return packed, {name: array.dtype.str for name, array in arrays.items()}


def unpack(packed: Arrays, types: Mapping[str, str]) -> dict[str, NDArray[np.generic]]:
    """What `pack` was given.

    Raises:
        KeyError: an array has no type.
        ValueError: an array is damaged, or of a type that no number has.
    """
    with ThreadPoolExecutor() as pool:  # decompression takes most of the time to load the words
        arrays = pool.map(lambda name: _unpacked(name, packed[name], types[name]), packed)
        return dict(zip(packed, arrays, strict=True))


def _unpacked(name: str, data: NDArray[np.generic], kind_name: str) -> NDArray[np.generic]:
    kind = np.dtype(kind_name)
    if kind.kind not in "iuf":
        raise ValueError(f"{name}: numbers cannot be of type {kind}")
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_MEMORY)
    try:
        plain = stream.decompress(data.tobytes(), _MAX_BYTES)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not stream.eof or len(plain) % kind.itemsize:
        raise ValueError(f"{name}: cut off, or too large")
    planes = np.frombuffer(plain, np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T[:, ::-1]).view(kind).reshape(-1)
