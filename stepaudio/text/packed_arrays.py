"""Arrays of small numbers, compressed for a file: what repeats itself takes no room in it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_MAX_BYTES = 1 << 28  # of an unpacked array: a damaged file must not fill the memory
_LEVEL = 9

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
        data = zlib.compress(np.ascontiguousarray(planes.T).tobytes(), _LEVEL)
        packed[name] = np.frombuffer(data, np.uint8)
    return packed, {name: array.dtype.str for name, array in arrays.items()}


def unpack(packed: Arrays, types: Mapping[str, str]) -> dict[str, NDArray[np.generic]]:
    """What `pack` was given.

    Raises:
        KeyError: an array has no type.
        ValueError: an array is damaged, or of a type that no number has.
    """
    arrays = {}
    for name, data in packed.items():
        kind = np.dtype(types[name])
        if kind.kind not in "iuf":
            raise ValueError(f"{name}: numbers cannot be of type {kind}")
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(data.tobytes(), _MAX_BYTES)
        except zlib.error as error:
            raise ValueError(f"{name}: {error}") from error
        if not stream.eof or len(plain) % kind.itemsize:
            raise ValueError(f"{name}: cut off, or too large")
        planes = np.frombuffer(plain, np.uint8).reshape(kind.itemsize, -1)
        arrays[name] = np.ascontiguousarray(planes.T[:, ::-1]).view(kind).reshape(-1)
    return arrays
