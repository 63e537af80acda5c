"""Training of the flow: the computation of streaming, with gradients; losses and their draws."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stepaudio.models.token2wav.chunks import ChunkSchedule
from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.flow_exact import ExactMelDecoder
from stepaudio.models.token2wav.flow_training import (
    Estimate,
    FlowBatch,
    FlowPoint,
    estimate_at,
    velocity_at,
)
from stepaudio.models.token2wav.noise import positional_noise
from stepaudio.training.losses import (
    FlowDraw,
    FlowTraining,
    draw_flow,
    flow_distillation_loss,
    flow_matching_loss,
    speaker_loss,
)
from tests.unit.models.token2wav.flows import BANDS, VOCAB, small_flow

SCHEDULE = ChunkSchedule((3,), 5, 6)


def random_batch(lens: tuple[int, ...] = (12, 17), seed: int = 0) -> FlowBatch:
    draw = torch.Generator().manual_seed(seed)
    rows, size = len(lens), max(lens)
    return FlowBatch(
        torch.randint(0, VOCAB, (rows, size), generator=draw),
        torch.tensor(lens),
        torch.randn(rows, BANDS, 2 * size, generator=draw),
        torch.randn(rows, 5, generator=draw),
    )


def fixed_draw(batch: FlowBatch, schedule: ChunkSchedule | None, prompts: list[int]) -> FlowDraw:
    rows = len(batch.tokens)
    return FlowDraw(
        torch.randn(batch.mel.shape, generator=torch.Generator().manual_seed(5)),
        torch.linspace(0.2, 0.7, rows),
        torch.tensor(prompts),
        torch.ones(rows, dtype=torch.bool),
        schedule,
    )


@pytest.mark.parametrize("num_prompt", [0, 4])
def test_training_computes_what_streaming_computes(num_prompt: int) -> None:
    """One Euler step from the noise is the velocity at time 0."""
    flow = small_flow(num_steps=1, cfg_rate=0.0)
    batch, factor = random_batch((19,)), 2
    decoder = ExactMelDecoder(flow)
    prompt = VoicePrompt(
        batch.tokens[0, :num_prompt], batch.mel[0, :, : factor * num_prompt], batch.speaker[0]
    )
    mel = decoder.generate(batch.tokens[0, num_prompt:], decoder.prepare(prompt))
    noises = [
        positional_noise([stream << 40], [0], (BANDS, factor * size))
        for stream, size in ((1, num_prompt), (2, 19 - num_prompt))
    ]
    x = torch.cat(noises, dim=-1)
    one = torch.ones(1, dtype=torch.bool)
    point = FlowPoint(x, torch.zeros(1), torch.tensor([num_prompt]), one, SCHEDULE)
    with torch.no_grad():
        ours = (x + velocity_at(flow, batch, point))[0, :, factor * num_prompt :]
    assert float((ours - mel).abs().max()) < 2e-5


@pytest.mark.parametrize("schedule", [SCHEDULE, None])
def test_rows_and_padding_are_independent(schedule: ChunkSchedule | None) -> None:
    flow, batch = small_flow(), random_batch()
    draw = fixed_draw(batch, schedule, [0, 5])
    losses = []
    for row, length in enumerate((12, 17)):
        one = FlowBatch(
            batch.tokens[row : row + 1, :length],
            batch.token_lens[row : row + 1],
            batch.mel[row : row + 1, :, : 2 * length],
            batch.speaker[row : row + 1],
        )
        part = FlowDraw(
            draw.noise[row : row + 1, :, : 2 * length],
            draw.times[row : row + 1],
            draw.prompt_lens[row : row + 1],
            draw.conditioned[row : row + 1],
            schedule,
        )
        one_loss = flow_matching_loss(flow, one, part)
        losses.append(torch.stack(one_loss) * length)
    changed = replace(batch, mel=batch.mel.clone(), tokens=batch.tokens.clone())
    changed.mel[0, :, 24:] = 100.0
    changed.tokens[0, 12:] = 1
    whole = torch.stack(flow_matching_loss(flow, changed, draw))
    assert torch.allclose(whole, sum(losses, torch.zeros(2)) / 29, rtol=1e-4)


@pytest.mark.parametrize("schedule", [SCHEDULE, None])
def test_every_weight_gets_a_finite_gradient(schedule: ChunkSchedule | None) -> None:
    flow, batch = small_flow().train(), random_batch()
    flow_matching_loss(flow, batch, fixed_draw(batch, schedule, [0, 5])).velocity.backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()) or name.endswith("linear_k.bias"), name


def test_an_unconditioned_row_depends_on_the_noisy_mel_only() -> None:
    flow, batch = small_flow(), random_batch()
    draw = fixed_draw(batch, SCHEDULE, [3, 5])
    nothing = torch.zeros(2, dtype=torch.bool)

    def velocity(batch: FlowBatch, conditioned: Tensor) -> Tensor:
        point = FlowPoint(draw.noise, draw.times, draw.prompt_lens, conditioned, SCHEDULE)
        with torch.no_grad():
            return velocity_at(flow, batch, point)[0, :, :24]

    other = random_batch(seed=1)
    assert torch.equal(velocity(batch, nothing), velocity(other, nothing))
    assert not torch.allclose(velocity(batch, ~nothing), velocity(other, ~nothing))


def test_loss_is_zero_for_the_true_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, batch = small_flow(), random_batch()
    draw = fixed_draw(batch, SCHEDULE, [0, 5])

    def true_estimate(_flow: Flow, _batch: FlowBatch, point: FlowPoint) -> Estimate:
        # On a straight path both ends follow from any point of it, given one of them.
        t = point.times[:, None, None]
        return Estimate(
            (batch.mel - point.x) / (1 - t), batch.mel - flow.speaker(batch.speaker)[..., None]
        )

    monkeypatch.setattr("stepaudio.training.losses.estimate_at", true_estimate)
    losses = flow_matching_loss(flow, batch, draw, sigma_min=0.0)
    assert max(float(loss.detach()) for loss in losses) < 1e-9


@pytest.mark.parametrize("schedule", [SCHEDULE, None])
def test_the_prior_trains_the_encoder_alone(schedule: ChunkSchedule | None) -> None:
    """Its guess is what the estimator is given, chunk by chunk, in the order of the utterance."""
    flow, batch = small_flow().train(), random_batch((12, 17))
    draw = fixed_draw(batch, schedule, [4, 5])
    flow_matching_loss(flow, batch, draw).prior.backward()
    assert flow.encoder_proj.weight.grad is not None
    assert all(p.grad is None for p in flow.decoder.parameters())
    flow.eval()
    point = FlowPoint(draw.noise, draw.times, draw.prompt_lens, draw.conditioned, schedule)
    with torch.no_grad():
        loss = flow_matching_loss(flow, batch, draw).prior
        mu = estimate_at(flow, batch, point).mu
        error = (mu + flow.speaker(batch.speaker)[..., None] - batch.mel).square()
        without = estimate_at(flow, replace(batch, tokens=batch.tokens.roll(1, 1)), point).mu
    valid = [error[0, :, :24].sum(), error[1].sum()]
    assert torch.allclose(loss, sum(valid, torch.zeros(())) / (BANDS * (24 + 34)), rtol=1e-5)
    assert not torch.allclose(mu[..., :8], without[..., :8])


@pytest.mark.parametrize("schedule", [SCHEDULE, None])
def test_frames_of_prompts_can_be_left_out(schedule: ChunkSchedule | None) -> None:
    """What is left is the error of what follows: the mean of both, weighted by frames."""
    flow, batch = small_flow(), random_batch((12, 17))
    draw = fixed_draw(batch, schedule, [4, 5])
    point = FlowPoint(
        (1 - draw.times[:, None, None]) * draw.noise + draw.times[:, None, None] * batch.mel,
        draw.times,
        draw.prompt_lens,
        draw.conditioned,
        schedule,
    )
    with torch.no_grad():
        loss = flow_matching_loss(flow, batch, draw, sigma_min=0.0, with_prompt=False).velocity
        error = (velocity_at(flow, batch, point) - (batch.mel - draw.noise)).square()
    behind = [error[0, :, 8:24].sum(), error[1, :, 10:34].sum()]
    assert torch.allclose(loss, sum(behind, torch.zeros(())) / (BANDS * (16 + 24)), rtol=1e-5)


def test_a_student_like_its_teacher_has_no_loss() -> None:
    teacher, student = small_flow(cfg_rate=0.0), small_flow(cfg_rate=0.0)
    batch = random_batch()
    draw = fixed_draw(batch, SCHEDULE, [0, 5])
    assert float(flow_distillation_loss(student, teacher, batch, draw).detach()) < 1e-9
    guided = small_flow(cfg_rate=0.7)
    loss = flow_distillation_loss(student, guided, batch, draw)
    loss.backward()
    assert float(loss.detach()) > 1e-3
    assert all(p.grad is None for p in guided.parameters())


def test_a_few_steps_of_training_lower_the_loss() -> None:
    flow, batch = small_flow().train(), random_batch()
    draw = fixed_draw(batch, SCHEDULE, [0, 5])
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = flow_matching_loss(flow, batch, draw).velocity
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_draws() -> None:
    batch = random_batch((40,) * 400)
    options = FlowTraining(chunk_tokens=(4, 9), left_context_tokens=(2, 3))
    draws = [draw_flow(batch, options, torch.Generator().manual_seed(seed)) for seed in range(20)]
    again = draw_flow(batch, options, torch.Generator().manual_seed(0))
    assert torch.equal(again.noise, draws[0].noise) and again.schedule == draws[0].schedule
    schedules = [draw.schedule for draw in draws if draw.schedule is not None]
    assert len(set(schedules)) > 10
    for schedule in schedules:
        (first,) = schedule.early
        assert 4 <= first <= schedule.later <= 9 and 2 <= schedule.left <= 3
    times = torch.cat([draw.times for draw in draws])
    assert 0 <= float(times.min()) and float(times.max()) <= 1
    assert float((times < 0.1).float().mean()) == pytest.approx(0.287, abs=0.02)  # acos(.9) * 2/pi
    prompts = torch.cat([draw.prompt_lens for draw in draws])
    assert 0 <= int(prompts.min()) and int(prompts.max()) <= 12
    assert float((prompts > 0).float().mean()) == pytest.approx(0.46, abs=0.02)
    conditioned = torch.cat([draw.conditioned for draw in draws]).float()
    assert float(conditioned.mean()) == pytest.approx(0.8, abs=0.02)
    assert draw_flow(batch, FlowTraining(), torch.Generator()).schedule is None


def test_speakers_are_told_apart_by_direction_only() -> None:
    centres = torch.eye(3) * torch.tensor([[1.0], [5.0], [0.2]])
    embeddings = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.1]])
    right, wrong = torch.tensor([0, 2]), torch.tensor([1, 0])
    close = speaker_loss(embeddings, centres, right, scale=2.0)
    # One cosine of 1 and two of 0.
    expected = float(torch.tensor([2.0, 0.0, 0.0]).logsumexp(0)) - 2
    assert float(close) == pytest.approx(expected, rel=1e-5)
    far = speaker_loss(embeddings, centres, wrong, scale=2.0)
    assert float(far) == pytest.approx(expected + 2, rel=1e-5)
