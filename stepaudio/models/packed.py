"""Linear layers for inference on a CPU, with weights laid out once for few rows.

Few rows are bound by reading the weights, and by laying them out, which the generic product does at
every call. FBGEMM multiplies float32 rows with float16 weights, which are half as long to read. It
is used where float16 holds the weights exactly, as it does those of a checkpoint that was stored in
it; the arithmetic is float32, and no row depends on its neighbours. Other weights are laid out by
oneDNN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS_HINT = 8  # rows that oneDNN's layout is chosen for; others work too


def _can_use_half() -> bool:
    """Whether this build and processor have FBGEMM's product, and it is right."""
    try:
        weight = torch.arange(-32, 32).view(4, 16) / 8
        x = torch.arange(32.0).view(2, 16)
        product = torch.ops.quantized.linear_dynamic_fp16(x, _half_layout(weight, None))
        return bool(torch.equal(product, x @ weight.T))
    except (AttributeError, RuntimeError):
        return False


def _half_layout(weight: Tensor, bias: Tensor | None) -> Any:
    return torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)


def _can_use_blocks() -> bool:
    """Whether this build has the operators that its compiler uses for oneDNN's layout."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        # The names are looked up when they are first asked for.
        return bool(
            torch.ops.mkldnn._reorder_linear_weight and torch.ops.mkldnn._linear_pointwise.binary
        )
    except (AttributeError, RuntimeError):
        return False


_CAN_USE_HALF = _can_use_half()
_CAN_USE_BLOCKS = _can_use_blocks()


def _fits_half(weight: Tensor) -> bool:
    return bool(torch.equal(weight.half().to(weight.dtype), weight))


class PackedLinear:
    """``x @ weight.T + bias`` for x [rows, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Lay the weight out.

        Args:
            weight: [out, in].
            bias: [out], or None.
        """
        weight = weight.detach()
        bias = None if bias is None else bias.detach()
        self._half: Any = None
        self._blocks: Tensor | None = None
        self._weight: Tensor | None = None
        self._bias = bias
        is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        if is_plain and _CAN_USE_HALF and _fits_half(weight):
            self._half = _half_layout(weight, bias)
            return
        # For one row there is nothing better than a plain matrix.
        self._weight = weight.T.contiguous()
        if is_plain and _CAN_USE_BLOCKS:
            self._blocks = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, out] of x [rows, in]."""
        product: Tensor
        if self._half is not None:
            product = torch.ops.quantized.linear_dynamic_fp16(x, self._half)
            return product
        if self._blocks is not None and len(x) > 1:
            product = torch.ops.mkldnn._linear_pointwise(
                x, self._blocks, self._bias, "none", [], ""
            )
            return product
        assert self._weight is not None
        if self._bias is None:
            return torch.mm(x, self._weight)
        return torch.addmm(self._bias, x, self._weight)

    def add_to(self, base: Tensor, x: Tensor) -> Tensor:
        """`base` [rows, out] plus the product; needs a layer without bias."""
        if self._half is not None:
            return self(x).add_(base)
        if self._blocks is not None and len(x) > 1:
            total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, base, self._blocks, None, "add"
            )
            return total
        assert self._weight is not None
        return torch.addmm(base, x, self._weight)
