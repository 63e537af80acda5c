"""Linear layers for inference on a CPU, with weights laid out once for few rows.

Few rows are bound by reading the weights. FBGEMM multiplies float32 rows with float16 weights,
which are half as long to read. It is used where float16 holds the weights exactly, as it does those
of a checkpoint that was stored in it; the arithmetic is float32, and no row depends on its
neighbours. Other weights stay plain matrices, transposed, which for few rows is faster than
`nn.Linear`'s layout. `stepaudio.models.int8` has the layers with weights of a byte.

All layers are modules that TorchScript can compile, because calling a packed product from Python
takes longer than a small product itself.

Shape legend: R rows, D inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _half_layout(weight: Tensor, bias: Tensor | None) -> Any:
    return torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)


def _can_use_half() -> bool:
    """Whether this build and processor have FBGEMM's product, and it is right."""
    try:
        weight = torch.arange(-32, 32).view(4, 16) / 8
        x = torch.arange(32.0).view(2, 16)
        product = torch.ops.quantized.linear_dynamic_fp16(x, _half_layout(weight, None))
        return bool(torch.equal(product, x @ weight.T))
    except (AttributeError, RuntimeError):
        return False


_CAN_USE_HALF = _can_use_half()


def _fits_half(weight: Tensor) -> bool:
    return bool(torch.equal(weight.half().to(weight.dtype), weight))


class HalfLinear(nn.Module):
    """``x @ weight.T + bias`` with float16 weights and float32 arithmetic."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.packed = _half_layout(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[R, N] of x [R, D]."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return product

    def add_to(self, base: Tensor, x: Tensor) -> Tensor:
        """`base` [R, N] plus the product; needs a layer without bias."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return product.add_(base)


class PlainLinear(nn.Module):
    """``x @ weight.T + bias`` with a plain, transposed matrix of any type."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight.T.contiguous()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """[R, N] of x [R, D]."""
        bias = self.bias
        if bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(bias, x, self.weight)

    def add_to(self, base: Tensor, x: Tensor) -> Tensor:
        """`base` [R, N] plus the product; needs a layer without bias."""
        return torch.addmm(base, x, self.weight)


FloatLinear = HalfLinear | PlainLinear


def pack_linear(weight: Tensor, bias: Tensor | None = None) -> FloatLinear:
    """Lay out a linear layer.

    Args:
        weight: [N, D].
        bias: [N], or None.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach()
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    if is_plain and _CAN_USE_HALF and _fits_half(weight):
        return HalfLinear(weight, bias)
    return PlainLinear(weight, bias)


class FusedNorm(nn.Module):
    """RMS norm of [R, D] in few operations."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = torch.cat([weight, weight]).detach()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        The layer norm of [x, -x] has mean zero, so it is the RMS norm of x in one operation.
        """
        width = x.size(1)
        both = torch.cat([x, -x], dim=1)
        return torch.layer_norm(both, [2 * width], self.weight, None, self.eps)[:, :width]


class NormedLinear(nn.Module):
    """A linear layer behind an RMS norm."""

    def __init__(self, norm: FusedNorm, linear: FloatLinear) -> None:
        super().__init__()
        self.norm = norm
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """[R, N] of x [R, D]."""
        product: Tensor = self.linear(self.norm(x))
        return product
