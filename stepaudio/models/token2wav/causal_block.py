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
        """Map the frames behind `tail`; return the outputs and the inputs with the tail before.

        In memory the results have time before channels, as every layer here wants it.
        """
        extended_BTD = torch.cat([tail_BDK.mT, x_BDT.mT], dim=1)
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(self._convolved(extended_BTD)))))
        return torch.addcmul(x_BDT.mT, self.gamma, y).mT, extended_BTD.mT

    def _convolved(self, extended_BTD: Tensor) -> Tensor:
        if torch.is_grad_enabled() or extended_BTD.device.type != "cpu":
            return self.dwconv(extended_BTD.mT).mT
        # Tap by tap, a CPU needs half the time of a convolution that transposes first.
        assert self.dwconv.bias is not None, "the convolution has a bias"
        taps_KD = self.dwconv.weight[:, 0].T.contiguous()
        size = extended_BTD.shape[1] - len(taps_KD) + 1
        out = self.dwconv.bias
        for index, tap in enumerate(taps_KD):
            out = torch.addcmul(out, extended_BTD[:, index : index + size], tap)
        return out
