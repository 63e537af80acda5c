"""The block that the light vocoders are made of.

Shape legend: B batch, D width, T frames, K frames before the first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalBlock(nn.Module):
    """ConvNeXt block (arXiv 2201.03545) whose convolution looks left.

    Args:
        width: channels.
        intermediate: hidden width of the feed-forward layers.
        kernel: frames that the convolution spans.
        scale: initial size of what the block adds to its input.
    """

    def __init__(self, width: int, intermediate: int, kernel: int, scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pwconv1 = nn.Linear(width, intermediate)
        self.pwconv2 = nn.Linear(intermediate, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))

    def forward(self, x_BDT: Tensor, tail_BDK: Tensor) -> tuple[Tensor, Tensor]:
        """Map the frames behind `tail`; return the outputs and the inputs with the tail before."""
        extended = torch.cat([tail_BDK, x_BDT], dim=-1)
        y = self.norm(self.dwconv(extended).transpose(1, 2))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x_BDT + y.transpose(1, 2), extended
