"""Weights of the flow, strictly: the public ``flow.pt`` or a ``.safetensors`` file of ours."""

from __future__ import annotations

from pathlib import Path

import torch

from stepaudio.models.token2wav.flow import Flow
from stepaudio.models.token2wav.flow_config import FlowConfig
from stepaudio.models.token2wav.loading import load_strict, read_tensors


def load_flow(
    path: str | Path,
    config: FlowConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Flow:
    """Load the flow in evaluation mode.

    Raises:
        CheckpointError: the file is missing, damaged or not a file of weights, or its tensors
            are missing, surplus or of another shape; all are listed.
    """
    with torch.device("meta"):
        flow = Flow(config)
    load_strict(flow, read_tensors(path), path, dtype=dtype)
    return flow.to(device).eval()
