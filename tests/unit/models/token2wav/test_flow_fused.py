"""The inference copies of encoder and estimator against the modules that they are derived from."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stepaudio.models.token2wav.chunks import ChunkSchedule, Spans, context_view
from stepaudio.models.token2wav.conformer import EncoderPast, UpsampleConformer
from stepaudio.models.token2wav.conformer_fused import FusedEncoder, FusedEncoderPast
from stepaudio.models.token2wav.context import KeyValues, additive_mask
from stepaudio.models.token2wav.dit import Condition, EstimatorPast
from stepaudio.models.token2wav.dit_fused import FusedEstimator, FusedPast
from stepaudio.models.token2wav.flow import euler_times
from stepaudio.models.token2wav.flow_batch import stack_estimator
from stepaudio.models.token2wav.fused_layers import FusedConv, FusedLinear
from tests.unit.models.token2wav.flows import BANDS, small_flow, small_flow_config

TOLERANCE = 2e-5
SPANS = Spans(torch.tensor([4, 2]), torch.tensor([8, 3]), torch.tensor([10, 7]))
SIZES = (4, 6, 10)  # of prompt, left context and call


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max())


def joined(parts: KeyValues) -> Tensor:
    """[L, B, S, 2 * H, K], keys first."""
    return torch.cat([parts.keys, parts.values], dim=2).transpose(2, 3)


def random_context(draw: torch.Generator, *shape: int) -> KeyValues:
    return KeyValues(*torch.randn(2, *shape, generator=draw))


@pytest.mark.parametrize("rate", [0.0, 0.7])
@torch.no_grad()
def test_velocity_at_every_step(rate: float) -> None:
    flow = small_flow(cfg_rate=rate, num_steps=3)
    config, draw = flow.config.estimator, torch.Generator().manual_seed(1)
    rows, size = 2 * flow.guidance_rows, SIZES[2]
    parts = [
        random_context(draw, config.depth, rows, config.num_heads, n, config.head_dim)
        for n in SIZES[:2]
    ]
    tails = torch.randn(config.depth, rows, 2, config.hidden_size, 2, generator=draw)
    x, mu, mel = torch.randn(3, 2, BANDS, size, generator=draw)
    speaker = torch.randn(2, BANDS, generator=draw)
    visible = context_view(ChunkSchedule((3,), 5, 6), SPANS, *SIZES).visible
    assert visible is not None
    fused = FusedEstimator(flow.decoder.estimator, euler_times(flow.config.sampler)[:-1], rate)
    # Tails of a block's two convolutions are consecutive, with time before channels.
    past = FusedPast(tails.transpose(1, 2).flatten(0, 1).mT, tuple(map(joined, parts)))
    given = fused.given(mu.mT, speaker, mel.mT)
    mask = additive_mask(visible, x)
    assert mask is not None
    for step, (_, time) in enumerate(flow.steps()):
        reference, left = flow.guided_velocity(
            x, Condition(mu, speaker, mel), time, EstimatorPast(tails, tuple(parts)), visible
        )
        ours, made = fused(x.mT, given, step, past, mask.repeat(fused.rows_per_session, 1, 1, 1))
        assert error(ours.mT, reference) < TOLERANCE
        assert error(torch.stack(made.new), joined(left.new)) < TOLERANCE
        inputs = left.conv.transpose(1, 2).flatten(0, 1).mT
        assert error(torch.stack(made.conv), inputs) < TOLERANCE


@pytest.mark.parametrize("key_bias", [True, False])
@torch.no_grad()
def test_encoder(key_bias: bool) -> None:
    config = replace(small_flow_config().encoder, key_bias=key_bias)
    torch.manual_seed(5)
    encoder = UpsampleConformer(config).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    draw = torch.Generator().manual_seed(2)
    heads, width = config.attention_heads, config.output_size // config.attention_heads
    tokens, frames = (
        [random_context(draw, layers, 2, heads, rate * n, width) for n in SIZES[:2]]
        for layers, rate in ((config.num_blocks, 1), (config.num_up_blocks, 2))
    )
    start = encoder.empty_past(2)
    past = EncoderPast(
        torch.randn(start.lookahead.shape, generator=draw),
        torch.randn(start.upsample.shape, generator=draw),
        tuple(tokens),
        tuple(frames),
    )
    schedule = ChunkSchedule((3,), 5, 6)
    views = (
        context_view(schedule, SPANS, *SIZES),
        context_view(schedule.scaled(2), SPANS.scaled(2), *(2 * n for n in SIZES)),
    )
    x = torch.randn(2, SIZES[2] + config.pre_lookahead_len, config.input_size, generator=draw)
    valid = torch.tensor([12, 8])
    reference, left = encoder(x, valid, past, views)
    fused = FusedEncoder(encoder)
    memory = FusedEncoderPast(
        past.lookahead.mT,
        past.upsample.mT,
        tuple(map(joined, tokens)),
        tuple(map(joined, frames)),
    )
    # A wider range than that of the views, as voices have it.
    distances = fused.distances(-9, 20)
    ours, made = fused(x, valid, memory, views, distances)
    assert error(ours, reference) < TOLERANCE
    assert error(torch.stack(made.tokens), joined(left.tokens)) < TOLERANCE
    assert error(torch.stack(made.frames), joined(left.frames)) < TOLERANCE
    assert error(made.lookahead.mT, left.lookahead) < TOLERANCE
    assert error(made.upsample.mT, left.upsample) < TOLERANCE


@pytest.mark.parametrize("shape", [(1, 9, 16), (3, 9, 16), (1, 1400, 16)])
@torch.no_grad()
def test_convolution_of_time_major_frames(shape: tuple[int, int, int]) -> None:
    """One short row, several rows, and one row that is long."""
    conv, x = nn.Conv1d(16, 5, 4), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert error(FusedConv(conv)(x), conv(x.mT).mT) < TOLERANCE
    # A view that does not begin where its memory does.
    assert error(FusedConv(conv)(x[:, 2:]), conv(x[:, 2:].mT).mT) < TOLERANCE


@torch.no_grad()
def test_joined_projections() -> None:
    layers = [nn.Linear(6, 4), nn.Linear(6, 3, bias=False)]
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    assert error(FusedLinear(*layers)(x), expected) < TOLERANCE


def test_sessions_in_one_voice_read_the_same_memory() -> None:
    voice = FusedPast(torch.zeros(4, 1, 2, 3), (torch.randn(2, 1, 5, 4, 3),))
    own = [FusedPast(torch.zeros(4, 1, 2, 3), (torch.randn(2, 1, n, 4, 3),)) for n in (0, 3)]
    shared, left = stack_estimator(own, [voice, voice]).parts
    assert shared.shape == (2, 2, 5, 4, 3)
    assert shared.data_ptr() == voice.parts[0].data_ptr()
    # The newest positions are last, in front of them nothing.
    assert torch.equal(left[:, 1:], own[1].parts[0])
    assert not left[:, 0].any()
