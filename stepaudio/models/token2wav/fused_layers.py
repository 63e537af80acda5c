"""What the inference copies of encoder and estimator share: joined projections, convolutions.

At small widths a chunk costs as much for the number of operations as for arithmetic. The copies
join projections, compute once what depends on weights only, and never transpose: frames are the
rows of every matrix. Keys and values are one tensor, [rows, positions, 2 * heads, width of a head],
keys first, so that a context is extended by one operation.

Weights are copied where they are joined: derive the copies anew when these change.

Shape legend: R rows of a batch, T positions of this call, D width, H heads, K head width, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# PyTorch convolves one row of no more values than this in a slow way, over a transposed copy.
_SLOW_CONVOLUTION = 20_480


class FusedConv:
    """A convolution without padding of [R, T, D], time before channels."""

    def __init__(self, conv: nn.Module) -> None:
        """Derive from a convolution with stride and dilation 1."""
        assert isinstance(conv, nn.Conv1d), "the layers convolve in one dimension"
        assert conv.bias is not None, "the layers have a bias"
        self._weight, self._bias = conv.weight, conv.bias
        self._kernel = conv.kernel_size[0]
        on_cpu = conv.weight.device.type == "cpu"
        # Rows are taps times channels, the order in which time-major frames lie in memory.
        self._matrix = conv.weight.permute(2, 1, 0).flatten(0, 1).contiguous() if on_cpu else None

    def __call__(self, x: Tensor) -> Tensor:
        """Map [R, T + kernel - 1, D] to [R, T, D]."""
        if self._matrix is None or len(x) > 1 or x.numel() > _SLOW_CONVOLUTION:
            return F.conv1d(x.mT, self._weight, self._bias).mT
        size, width = x.shape[1] - self._kernel + 1, x.shape[2]
        x = x.contiguous()
        windows = x.as_strided((size, self._kernel * width), (width, 1), x.storage_offset())
        return torch.addmm(self._bias, windows, self._matrix)[None]


class FusedLinear:
    """Linear layers with one input as one matrix product, their outputs one behind the other."""

    def __init__(self, *layers: nn.Module) -> None:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        assert len(linear) == len(layers), "only linear layers can be joined"
        weights = [layer.weight for layer in linear]
        # In this order a product of few rows reads it faster.
        self.matrix = torch.cat(weights).T.contiguous()
        self.bias = torch.cat(
            [
                weight.new_zeros(len(weight)) if layer.bias is None else layer.bias
                for layer, weight in zip(linear, weights, strict=True)
            ]
        )

    def __call__(self, x_RTD: Tensor) -> Tensor:
        """Map [R, T, D] to [R, T, all outputs]."""
        rows, size, width = x_RTD.shape
        return torch.addmm(self.bias, x_RTD.reshape(-1, width), self.matrix).view(rows, size, -1)


def attend_joined(queries: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """Attention with the heads joined, [R, T, H * K].

    Args:
        queries: [R, T, H, K].
        context: keys and values, [R, S, 2 * H, K].
        mask: additive, broadcasts to [R, H, T, S]; None: everything is visible.
    """
    q, both = queries.transpose(1, 2), context.transpose(1, 2)
    keys, values = both.chunk(2, dim=1)
    return F.scaled_dot_product_attention(q, keys, values, mask).transpose(1, 2).flatten(-2)
