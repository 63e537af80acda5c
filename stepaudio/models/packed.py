"""Linear layers for inference, with weights laid out for the number of rows they meet.

One row is bound by reading the weights, for which a plain matrix suits best. For several rows
oneDNN multiplies from blocks of the weights that are laid out once; the generic product lays them
out again at every call, which costs more than the arithmetic of a few rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS_HINT = 8  # rows that the layout is chosen for; others work too


def _has_packing() -> bool:
    """Whether this build of PyTorch has the operators that its compiler uses for packed weights."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        # The names are looked up when they are first asked for.
        return bool(
            torch.ops.mkldnn._reorder_linear_weight and torch.ops.mkldnn._linear_pointwise.binary
        )
    except (AttributeError, RuntimeError):
        return False


_CAN_PACK = _has_packing()


class PackedLinear:
    """``x @ weight + bias`` for x [rows, in]; the second layout exists for float32 on a CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Lay the weight out.

        Args:
            weight: [out, in].
            bias: [out], or None.
        """
        self._weight = weight.T.contiguous()
        self._bias = bias
        self._packed: Tensor | None = None
        if _CAN_PACK and weight.device.type == "cpu" and weight.dtype == torch.float32:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, out] of x [rows, in]."""
        if self._packed is not None and len(x) > 1:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._packed, self._bias, "none", [], ""
            )
            return product
        if self._bias is None:
            return torch.mm(x, self._weight)
        return torch.addmm(self._bias, x, self._weight)

    def add_to(self, base: Tensor, x: Tensor) -> Tensor:
        """`base` [rows, out] plus the product, in one operation; needs a layer without bias."""
        if self._packed is not None and len(x) > 1:
            total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, base, self._packed, None, "add"
            )
            return total
        return torch.addmm(base, x, self._weight)
