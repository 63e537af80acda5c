"""Small flows for tests: every part of the public one with other numbers."""

from __future__ import annotations

from typing import Any

import torch

from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.flow_config import (
    FlowConfig,
    FlowEncoderConfig,
    FlowEstimatorConfig,
    SamplerConfig,
    StreamingConfig,
)

VOCAB = 50
BANDS = 6


def small_flow_config(streaming: dict[str, Any] | None = None, **sampler: Any) -> FlowConfig:
    """Exact chunks of 3 and then 5 tokens, unless `streaming` says otherwise."""
    exact = {
        "mode": "exact",
        "first_chunk_tokens": 3,
        "chunk_tokens": 5,
        "left_context_tokens": 6,
    }
    return FlowConfig(
        input_size=10,
        output_size=BANDS,
        spk_embed_dim=5,
        vocab_size=VOCAB,
        encoder=FlowEncoderConfig(
            input_size=10,
            output_size=12,
            num_blocks=2,
            num_up_blocks=1,
            attention_heads=2,
            linear_units=20,
            pre_lookahead_len=2,
        ),
        estimator=FlowEstimatorConfig(
            in_channels=4 * BANDS,
            out_channels=BANDS,
            depth=2,
            num_heads=2,
            head_dim=4,
            hidden_size=12,
            mlp_ratio=2.0,
            frequency_size=8,
        ),
        sampler=SamplerConfig(**{"num_steps": 2, **sampler}),
        streaming=StreamingConfig(**(exact | (streaming or {}))),
    )


def small_flow(streaming: dict[str, Any] | None = None, **sampler: Any) -> Flow:
    """Random weights, large enough that every input matters."""
    torch.manual_seed(3)
    flow = Flow(small_flow_config(streaming, **sampler)).eval()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return flow


def random_prompt(num_tokens: int, seed: int = 0) -> VoicePrompt:
    """A voice of noise."""
    draw = torch.Generator().manual_seed(seed)
    return VoicePrompt(
        torch.randint(0, VOCAB, (num_tokens,), generator=draw),
        torch.randn(BANDS, 2 * num_tokens, generator=draw),
        torch.randn(5, generator=draw),
    )


def random_tokens(num_tokens: int, seed: int = 0) -> torch.Tensor:
    """Audio tokens."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (num_tokens,), generator=draw)
