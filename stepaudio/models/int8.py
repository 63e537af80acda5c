"""Linear layers with weights of a byte, for inference on a CPU.

Weights are symmetric int8 with a scale for every output, laid out once by FBGEMM. Activations are
quantised row by row: every token is divided by its own largest value before FBGEMM rounds it, and
the product is multiplied by that value again. Sums are exact integers, so that the product of a row
is the same bit by bit whatever its neighbours and however many they are; torch's dynamic
quantisation takes one scale for the whole batch.

Small decoders keep their float weights even where int8 is asked for: a step of theirs is bound by
the number of its operations, so that a byte a weight would save nothing and cost accuracy.

Shape legend: R rows, D inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stepaudio.errors import ConfigError

_LARGEST = 127  # of a weight
_FEW_WEIGHTS = 8_000_000  # of a small decoder, 16 MB as float16
# Instead of a row's largest value where that is zero: the product is zero, not zero by zero.
_SMALLEST_ROW = 1e-30


def _levels() -> int:
    """Largest quantised activation.

    Without VNNI FBGEMM adds pairs of products in 16 bits, where activations must stay below 7 bits.
    """
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    return 127 if has_vnni is not None and has_vnni() else 63


def _pack(weight: Tensor) -> Any:
    scales = (weight.abs().amax(1) / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    values = (weight / scales[:, None]).round().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    quantised = torch._make_per_channel_quantized_tensor(values, scales, zeros, 0)
    return torch.ops.quantized.linear_prepack(quantised, None)


def _can_use_int8() -> bool:
    """Whether this build and processor have FBGEMM's product, and it is right."""
    try:
        weight = torch.tensor([[127.0, -127.0], [127.0, 127.0]])
        x = torch.tensor([[1.0, 0.5]])
        product = Int8Linear(weight, None)(x)
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.allclose(product, x @ weight.T, rtol=0.02, atol=2.0))


def check_int8(device: torch.device, dtype: torch.dtype) -> None:
    """Raise ConfigError if a model there cannot be decoded with int8 weights."""
    if device.type != "cpu" or dtype != torch.float32:
        raise ConfigError(
            f"int8 weights are for a float32 model on a CPU, this one is {dtype} on {device}: "
            "load it with device cpu, or use another precision"
        )
    if not _can_use_int8():
        raise ConfigError(
            "int8 weights need a build of torch with FBGEMM (x86-64): use float32 instead"
        )


def is_worthwhile(decoder: nn.Module) -> bool:
    """Whether a decoder is large enough for int8 weights to make its steps faster."""
    return sum(parameter.numel() for parameter in decoder.parameters()) >= _FEW_WEIGHTS


class Int8Linear(nn.Module):
    """``x @ weight.T + bias``."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        levels = _levels()
        self.step, self.zero = 1 / levels, levels + 1
        self.smallest = _SMALLEST_ROW
        self.packed = _pack(weight.detach())
        self.bias = None if bias is None else bias.detach()

    def product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Product [R, N] of rows [R, D] whose largest value is one, and what each is short of."""
        largest = x.abs().amax(1, keepdim=True)
        largest.clamp_min_(self.smallest)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / largest, self.step, self.zero, self.packed
        )
        return product, largest

    def forward(self, x: Tensor) -> Tensor:
        """[R, N] of x [R, D]."""
        product, scale = self.product(x)
        bias = self.bias
        if bias is None:
            return product.mul_(scale)
        return torch.addcmul(bias, product, scale)

    def add_to(self, base: Tensor, x: Tensor) -> Tensor:
        """`base` [R, N] plus the product; needs a layer without bias."""
        product, scale = self.product(x)
        return torch.addcmul(base, product, scale)


class Int8NormedLinear(nn.Module):
    """A linear layer behind an RMS norm, whose division goes into the scale of the product."""

    def __init__(
        self, norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__()
        width = weight.shape[1]
        self.norm_weight = norm_weight.detach() * width**0.5
        # A row's length, and of this together: the root of D times the mean square plus eps.
        self.shortest = torch.tensor((eps * width) ** 0.5)
        self.linear = Int8Linear(weight, None)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[R, N] of x [R, D]."""
        length = torch.ops.aten.linalg_vector_norm(x, 2.0, [1], True)
        product, scale = self.linear.product(x * self.norm_weight)
        scale = scale / torch.hypot(length, self.shortest)
        bias = self.bias
        if bias is None:
            return product.mul_(scale)
        return torch.addcmul(bias, product, scale)
