"""One pass over a slot cache, as values that TorchScript takes.

Annotations of this module must be evaluated, which TorchScript relies on for named tuples.

Shape legend: N slots, B rows of a pass, T new tokens, R = B * T, L keys, H query heads, G key and
value heads, K head width.
"""

from typing import NamedTuple

from torch import Tensor


class SlotRows(NamedTuple):
    """The rows of a pass over a cache.

    Attributes:
        slots: [B] slot of every row.
        first: the first of consecutive slots, whose buffers are read without a copy; -1: they are
            not consecutive.
        is_fresh: all slots are empty.
    """

    slots: Tensor
    first: int
    is_fresh: bool


class WindowRows(NamedTuple):
    """What a pass does to the layers with one window.

    Attributes:
        start: position where all rows write their new tokens, slots being consecutive; -1: they
            write each to its own.
        write: [B * G * T] where, in a buffer seen as [2, N * G * (size + 1), K]; empty with
            a start.
        num_read: stored positions that are read.
        joins: new keys are joined to stored ones, because a ring may lose keys that the first of
            several new tokens still sees.
    """

    start: int
    write: Tensor
    num_read: int
    joins: bool


class WindowPass(NamedTuple):
    """What a pass is for the layers with one window.

    Attributes:
        place: where they write and read.
        mask: [B or 1, 1, T, L], true where visible; None: causal, or one token that sees all.
        bias: [B * G, H / G * T, L], minus infinity where a key is invisible; for few tokens only.
    """

    place: WindowRows
    mask: Tensor | None
    bias: Tensor | None


class LayerPass(NamedTuple):
    """What all layers of one pass share.

    Attributes:
        batch: rows, B.
        num_new: new tokens of a row, T.
        rows: slots of the cache.
        cos: rotary table [B, T, K].
        sin: the same.
        rotation: [R, K, K] matrices that rotate a head's row; None for many tokens.
        windows: by index of the window.
    """

    batch: int
    num_new: int
    rows: SlotRows
    cos: Tensor
    sin: Tensor
    rotation: Tensor | None
    windows: list[WindowPass]
