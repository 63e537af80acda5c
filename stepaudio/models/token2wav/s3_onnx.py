"""The public S3 tokenizer, an ONNX model: run as it is, or read into the native one.

The graph keeps the names of some tensors (``encoders.conv1.weight``, ``quantizer.project_in.bias``)
and the path of the module that every node came from (``/blocks.0/attn/query/MatMul``); matrices are
stored transposed, without names. pip ``s3tokenizer`` reads names the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepaudio.audio.mel import log_mel
from stepaudio.models.token2wav.onnx_session import (
    OnnxWeight,
    open_session,
    read_onnx_weights,
    run_session,
)
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer, s3_from_tensors
from stepaudio.models.token2wav.tokenizing import ConfiguredTokenizer, tokenize_windows

# Module names of the public graph that differ from those of the native model.
_RENAMED = {"encoders": "encoder", "project_in": "project_down"}


class OnnxS3Tokenizer(ConfiguredTokenizer):
    """S3 tokenizer run by onnxruntime."""

    config: S3Config

    def __init__(self, path: str | Path, config: S3Config | None = None) -> None:
        """Open ``speech_tokenizer_v2_25hz.onnx``.

        Args:
            path: the model: mel [1, M, T] and int32 length [1] to codes.
            config: its mel bands, codes and windows; None: the public ones.

        Raises:
            CheckpointError: the file is missing, damaged or another model.
        """
        self.config = config or S3Config()
        self._session = open_session(path, num_inputs=2)

    def tokenize(self, wav: Tensor) -> Tensor:
        """Turn 16 kHz mono speech [samples] of any length into codes, int64 [tokens]."""
        mel = log_mel(wav.cpu(), self.config.n_mels, padding=0)
        return tokenize_windows(mel, self.config, self._encode).to(wav.device)

    def _encode(self, mel_MT: Tensor) -> Tensor:
        length = np.array([mel_MT.shape[-1]], dtype=np.int32)
        codes = run_session(self._session, mel_MT[None].numpy(), length)
        return codes.flatten().long()


def load_s3_onnx(path: str | Path, config: S3Config | None = None) -> S3Tokenizer:
    """Load the native tokenizer from ``speech_tokenizer_v2_25hz.onnx``.

    Args:
        path: the ONNX model.
        config: architecture; None: the public one.

    Raises:
        CheckpointError: the package ``onnx`` is not installed, the file is missing or damaged, or
            its tensors do not fit.
    """
    config = config or S3Config()
    with torch.device("meta"):
        wanted = {name: t.shape for name, t in S3Tokenizer(config).state_dict().items()}
    return s3_from_tensors(native_tensors(read_onnx_weights(path), wanted), path, config)


def native_tensors(
    weights: Iterable[OnnxWeight], wanted: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Name the tensors of an ONNX graph as the native model does.

    Tensors that belong to no module of the native model, such as constants, are left out. Strict
    loading tells what is missing afterwards.

    Args:
        weights: from `read_onnx_weights`.
        wanted: names and shapes of the native model.
    """
    modules = {name.rpartition(".")[0] for name in wanted}
    strided = iter(("encoder.conv1", "encoder.conv2"))  # the graph may have lost their names
    tensors: dict[str, Tensor] = {}
    convolution: str | None = None
    for weight in weights:
        leaf = _leaf(weight)
        module = _module(weight, modules)
        if module is None and weight.operation == "Conv" and weight.position == 1:
            module = next(strided, None)
            convolution = module
        elif module is None and weight.operation == "Conv":
            module = convolution
        if module is None or f"{module}.{leaf}" not in wanted:
            continue
        # x @ W with W [in, out]; a Linear keeps [out, in].
        tensor = weight.tensor.t() if weight.operation == "MatMul" else weight.tensor
        tensors.setdefault(f"{module}.{leaf}", tensor.contiguous())
    return tensors


def _leaf(weight: OnnxWeight) -> str:
    if weight.operation in ("Conv", "LayerNormalization", "Gemm"):
        return "weight" if weight.position == 1 else "bias"
    return "weight" if weight.operation == "MatMul" else "bias"


def _module(weight: OnnxWeight, modules: set[str]) -> str | None:
    """Module that a tensor belongs to: by its own name, its partner's, or its node's path."""
    named = (name.rpartition(".")[0] for name in (weight.name, weight.partner) if "." in name)
    for path in (*named, weight.scope):
        module = _match(path, modules)
        if module is not None:
            return module
    return None


def _match(path: str, modules: set[str]) -> str | None:
    """The one module that shares the longest end of its path, or None."""
    # An exported Sequential repeats its name: mlp/mlp.0.
    parts = [_RENAMED.get(part, part) for part in path.replace("mlp.mlp.", "mlp.").split(".")]
    for size in range(len(parts), 0, -1):
        end = parts[-size:]
        found = [module for module in modules if module.split(".")[-size:] == end]
        if len(found) == 1:
            return found[0]
    return None
