"""Models in the form of the public ``.onnx`` files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from stepaudio.models.token2wav.s3_tokenizer import S3Tokenizer
from stepaudio.models.token2wav.speaker import SpeakerNetwork


class _Encode(nn.Module):
    def __init__(self, tokenizer: S3Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        return self.tokenizer.encode(feats, feats_length)[0]


class _Embed(nn.Module):
    """Filter bank [1, T, 80] to an embedding; operations that every opset has."""

    def __init__(self, network: SpeakerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        x = features.transpose(1, 2)
        for layer, norm in zip(self.network.layers, self.network.norms, strict=True):
            x = torch.relu(norm(layer(x).transpose(1, 2)).transpose(1, 2))
        variance = (x - x.mean(-1, keepdim=True)).square().mean(-1)
        return self.network.out(torch.cat([x.mean(-1), (variance + 1e-5).sqrt()], dim=-1))


def export_tokenizer(tokenizer: S3Tokenizer, path: Path) -> None:
    """Write a tokenizer as the public one takes and gives its values."""
    mel = torch.randn(1, tokenizer.config.n_mels, 41)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Encode(tokenizer),
            (mel, torch.tensor([41], dtype=torch.int32)),
            path,
            input_names=["feats", "feats_length"],
            output_names=["indices"],
            dynamic_axes={"feats": {2: "T"}, "indices": {1: "S"}},
            opset_version=17,
            dynamo=False,
        )


def export_speaker(network: SpeakerNetwork, path: Path) -> None:
    """Write a speaker encoder as the public one takes and gives its values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Embed(network),
            (torch.randn(1, 50, network.config.num_bins),),
            path,
            input_names=["input"],
            dynamic_axes={"input": {1: "T"}},
            opset_version=17,
            dynamo=False,
        )
