"""ONNX models: running them with onnxruntime, and reading their weights with onnx."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudio.errors import CheckpointError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_session(path: str | Path, *, num_inputs: int) -> InferenceSession:
    """Open a model for inference on the CPU, with as many threads as PyTorch uses.

    Args:
        path: ``.onnx`` file.
        num_inputs: inputs that the model must take.

    Raises:
        CheckpointError: the file is missing or damaged, is not a model, or takes other inputs.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: this model is missing")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: exporters leave harmless warnings behind
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except (
        errors.Fail,
        errors.InvalidProtobuf,
        errors.InvalidGraph,
        errors.InvalidArgument,
        errors.NotImplemented,
        errors.NoModel,
        errors.RuntimeException,
    ) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: not an ONNX model that onnxruntime can run ({reason}); download it again"
        ) from error
    if len(session.get_inputs()) != num_inputs:
        names = [value.name for value in session.get_inputs()]
        raise CheckpointError(f"{path}: must take {num_inputs} inputs, takes {names}")
    return session


def run_session(session: InferenceSession, *values: NDArray[np.generic]) -> Tensor:
    """First output for inputs in the order of the model."""
    names = [value.name for value in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, values, strict=True)))
    return torch.from_numpy(np.ascontiguousarray(outputs[0]))


@dataclass(frozen=True)
class OnnxWeight:
    """A stored tensor where a node of the graph uses it.

    Attributes:
        name: of the tensor; exporters rename those that they change.
        operation: type of the node.
        scope: path of the module that the node came from, dotted.
        position: which input of the node it is.
        tensor: the numbers.
        partner: name of a stored tensor that the next node adds to the node's output, or "".
    """

    name: str
    operation: str
    scope: str
    position: int
    tensor: Tensor
    partner: str


def read_onnx_weights(path: str | Path) -> Iterator[OnnxWeight]:
    """Yield every use of a stored tensor of floating-point numbers, in the order of the graph.

    Raises:
        CheckpointError: the package ``onnx`` is not installed, or the file is missing or damaged.
    """
    path = Path(path)
    try:
        import onnx
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading the weights of an ONNX model needs the package onnx: "
            "pip install 'stepaudio[onnx]'"
        ) from error
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise CheckpointError(f"{path}: this model is missing")
    try:
        graph = onnx.load(path).graph
    except (DecodeError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); download it again") from error
    stored = {value.name: value for value in graph.initializer}
    aliases = {name: name for name in stored}
    for node in graph.node:  # equal tensors are stored once, and copied by nodes
        if node.op_type == "Identity" and node.input[0] in aliases:
            aliases[node.output[0]] = aliases[node.input[0]]
    added = {
        value: next((aliases[other] for other in node.input if other in aliases), "")
        for node in graph.node
        if node.op_type == "Add"
        for value in node.input
    }
    for node in graph.node:
        if node.op_type == "Identity":
            continue
        scope = ".".join(node.name.split("/")[:-1]).strip(".")
        for position, name in enumerate(node.input):
            if name not in aliases:
                continue
            array = onnx.numpy_helper.to_array(stored[aliases[name]])
            if array.dtype.kind != "f":
                continue
            # A copied tensor keeps the name of the copy out of the way: the scope tells its place.
            plain = name if name in stored else ""
            tensor = torch.from_numpy(array.copy())
            partner = added.get(node.output[0], "")
            yield OnnxWeight(plain, node.op_type, scope, position, tensor, partner)
