"""Speaker embedding of a voice prompt: the public ONNX model, or a small trainable network.

Shape legend: B batch, T frames, F filter bank bins, C channels, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.audio.prompt_features import FBANK_BINS, kaldi_fbank
from stepaudio.errors import ConfigError
from stepaudio.models.config import ConfigSection
from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.onnx_session import open_session, run_session
from stepaudio.models.token2wav.windows import masked, valid_mask

CAMPPLUS_SIZE = 192
_SMALLEST_VARIANCE = 1e-5


class SpeakerEncoder(Protocol):
    """Voice to a vector."""

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding."""

    def embed(self, wav: Tensor) -> Tensor:
        """Turn 16 kHz mono speech [samples], at least 25 ms, into a float32 embedding [E]."""


class OnnxSpeakerEncoder:
    """CAM++ (``campplus.onnx``) run by onnxruntime (specification, section 10)."""

    def __init__(self, path: str | Path, embedding_size: int = CAMPPLUS_SIZE) -> None:
        """Open the model: mean-free filter bank [1, T, 80] to [1, E].

        Raises:
            CheckpointError: the file is missing, damaged or another model.
        """
        self._session = open_session(path, num_inputs=1)
        self._size = embedding_size

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding."""
        return self._size

    def embed(self, wav: Tensor) -> Tensor:
        """Turn 16 kHz mono speech [samples], at least 25 ms, into a float32 embedding [E]."""
        features = kaldi_fbank(wav.cpu(), FBANK_BINS)
        return run_session(self._session, features[None].numpy()).flatten().float()


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig(ConfigSection):
    """Time-delay network with statistics pooling (x-vector).

    Attributes:
        num_bins: filter bank bins.
        channels: width of every layer.
        kernels: kernel of every layer, odd.
        dilations: dilation of every layer.
        embedding_size: numbers of an embedding.
    """

    num_bins: int = FBANK_BINS
    channels: int = 128
    kernels: tuple[int, ...] = (5, 3, 3, 1)
    dilations: tuple[int, ...] = (1, 2, 3, 1)
    embedding_size: int = CAMPPLUS_SIZE

    def __post_init__(self) -> None:
        if not self.kernels or len(self.kernels) != len(self.dilations):
            raise ConfigError("kernels and dilations need one value for each layer")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ConfigError(f"kernels must be odd, got {list(self.kernels)}")
        if min(self.num_bins, self.channels, self.embedding_size, *self.dilations) < 1:
            raise ConfigError("sizes and dilations must be positive")


class SpeakerNetwork(nn.Module):
    """Small speaker encoder; mean and deviation over time make a vector of any length of speech."""

    def __init__(self, config: SpeakerConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.num_bins] + [config.channels] * len(config.kernels)
        self.layers = nn.ModuleList(
            nn.Conv1d(sizes[i], sizes[i + 1], kernel, dilation=d, padding=kernel // 2 * d)
            for i, (kernel, d) in enumerate(zip(config.kernels, config.dilations, strict=True))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in config.kernels)
        self.out = nn.Linear(2 * config.channels, config.embedding_size)

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding."""
        return self.config.embedding_size

    def forward(self, features_BTF: Tensor, lens: Sequence[int]) -> Tensor:
        """Embed utterances, [B, E].

        Args:
            features_BTF: mean-free filter bank.
            lens: frames of every row, at least one.
        """
        x = features_BTF.transpose(1, 2)
        mask = valid_mask(lens, x)
        x = masked(x, mask)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            # Over channels, so that neither the batch nor the padding changes a row.
            x = masked(F.relu(norm(layer(x).transpose(1, 2)).transpose(1, 2)), mask)
        count = torch.tensor(lens, device=x.device, dtype=x.dtype)[:, None]
        mean = x.sum(dim=-1) / count
        variance = masked((x - mean[..., None]).square(), mask).sum(dim=-1) / count
        deviation = (variance + _SMALLEST_VARIANCE).sqrt()
        return self.out(torch.cat([mean, deviation], dim=-1))

    @torch.no_grad()
    def embed(self, wav: Tensor) -> Tensor:
        """Turn 16 kHz mono speech [samples], at least 25 ms, into a float32 embedding [E]."""
        features = kaldi_fbank(wav.to(self.out.weight.device), self.config.num_bins)
        return self(features[None], [len(features)])[0]


def load_speaker_network(path: str | Path, config: SpeakerConfig) -> SpeakerNetwork:
    """Load a small speaker encoder in evaluation mode.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit.
    """
    with torch.device("meta"):
        network = SpeakerNetwork(config)
    load_strict(network, read_tensors(path), path)
    return network.eval()
