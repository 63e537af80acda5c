"""The flow for inference: copies of its parts with few operations, and what they share.

Derived from a `Flow` whose weights no longer change; derive it anew when they do. Frames are rows
here, [N, T, C], where the modules have them last.

Shape legend: N sessions, T tokens or frames of this call, C mel bands, R rows of the estimator.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from stepaudio.models.token2wav.conformer_fused import (
    Distances,
    FusedEncoder,
    FusedEncoderPast,
    FusedEncoderTrace,
)
from stepaudio.models.token2wav.context import View
from stepaudio.models.token2wav.dit_fused import FusedEstimator
from stepaudio.models.token2wav.flow import Flow, euler_times


class FusedFlow:
    """Encoder and estimator of a flow at the times of its sampler.

    Attributes:
        encoder: embedded tokens to frames.
        estimator: velocity at the time of every step.
        lengths: of the Euler steps.
    """

    @torch.no_grad()
    def __init__(self, flow: Flow) -> None:
        sampler = flow.config.sampler
        times = euler_times(sampler)
        self._embedding, self._proj = flow.input_embedding, flow.encoder_proj
        self.encoder = FusedEncoder(flow.encoder)
        self.estimator = FusedEstimator(flow.decoder.estimator, times[:-1], sampler.cfg_rate)
        self.lengths = [until - time for time, until in pairwise(times)]

    def encode(
        self,
        tokens: Tensor,
        num_valid: Tensor,
        past: FusedEncoderPast,
        views: tuple[View, View],
        distances: tuple[Distances, Distances],
    ) -> tuple[Tensor, FusedEncoderTrace]:
        """Tokens [N, T + lookahead] to mu [N, frames, C]; see `FusedEncoder.__call__`."""
        embedded = self._embedding(tokens)
        hidden, trace = self.encoder(embedded, num_valid, past, views, distances)
        return self._proj(hidden), trace
