"""Vocoder losses against direct computations."""

import math

import pytest
import torch

from stepaudio.training.spectral_losses import (
    expected_error,
    f0_error_cents,
    multi_resolution_loss,
    pitch_loss,
    power_spectrum,
    voicing_loss,
)

RATE = 8000


def losses(sound, target, highest_hz=4000.0, n_ffts=(64, 256)):
    rows = torch.full((len(target),), highest_hz)
    return multi_resolution_loss(
        [sound], target, n_ffts, highest_hz_B=rows, sample_rate=RATE, floor=1e-5
    )


@pytest.mark.parametrize("n_fft", [64, 256, 1024])
def test_white_noise_has_the_power_of_its_variance_at_every_size(n_fft):
    power = power_spectrum(0.1 * torch.randn(1, 40_000), n_fft)
    assert power.mean() == pytest.approx(0.01, rel=0.05)


def test_equal_sounds_have_no_loss():
    wav = torch.randn(2, 2000)
    assert all(float(loss) == 0 for loss in losses(wav, wav))


def test_a_louder_sound_differs_by_its_gain():
    wav = torch.randn(2, 2000)
    linear, logarithmic = losses(1.5 * wav, wav)
    assert linear == pytest.approx(0.5, abs=1e-4)
    assert logarithmic == pytest.approx(math.log(1.5), abs=1e-4)


def test_only_what_the_recording_can_hold_is_compared():
    seconds = torch.arange(4000) / RATE
    low = torch.sin(2 * math.pi * 500 * seconds)[None]
    high = 0.1 * torch.sin(2 * math.pi * 3500 * seconds)[None]
    linear, _ = losses(low + high, low, highest_hz=2300.0, n_ffts=(256,))
    assert linear < 1e-2
    linear, _ = losses(low + high, low, highest_hz=4000.0, n_ffts=(256,))
    assert linear > 0.05


def test_noise_is_best_matched_by_noise_of_the_same_power():
    torch.manual_seed(0)
    target = torch.randn(4000, 1)
    errors = {}
    for scale in (0.0, 0.5, 1.0, 2.0):
        draws = scale * torch.randn(2, 4000, 100)
        errors[scale] = float(expected_error([*draws], target).mean())
    assert min(errors, key=errors.get) == 1.0
    plain = {scale: float(expected_error([scale * draws[0]], target).mean()) for scale in (0, 0.5)}
    assert plain[0] < plain[0.5]


def test_two_equal_draws_have_the_plain_error():
    sound, target = torch.randn(5), torch.randn(5)
    assert torch.equal(expected_error([sound, sound], target), expected_error([sound], target))


def test_without_repulsion_two_draws_have_their_mean_error():
    first, second, target = torch.randn(3, 5)
    mean = 0.5 * ((first - target).abs() + (second - target).abs())
    assert torch.equal(expected_error([first, second], target, repulsion=0.0), mean)


def test_silence_has_a_finite_gradient():
    sound = torch.zeros(1, 1000, requires_grad=True)
    linear, logarithmic = losses(sound, torch.randn(1, 1000))
    (linear + logarithmic).backward()
    assert sound.grad.isfinite().all()


def test_pitch_loss_is_lowest_where_the_mean_is_f0():
    bins = torch.linspace(math.log(50), math.log(400), 10)
    f0 = ((0.25 * bins[3] + 0.75 * bins[4]).exp())[None, None]
    logits = torch.zeros(1, 1, 10, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        pitch_loss(logits, bins, f0, torch.ones(1, 1)).backward()
        optimizer.step()
    probabilities = logits.detach().softmax(-1)[0, 0]
    assert probabilities[3] == pytest.approx(0.25, abs=0.01)
    assert probabilities[4] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(("f0", "nearest"), [(10.0, 0), (50.0, 0), (400.0, 9), (900.0, 9)])
def test_pitch_outside_the_bins_is_the_nearest_one(f0, nearest):
    bins = torch.linspace(math.log(50), math.log(400), 10)
    logits = torch.zeros(1, 1, 10)
    logits[..., nearest] = 20.0
    assert pitch_loss(logits, bins, torch.tensor([[f0]]), torch.ones(1, 1)) < 1e-3


def test_unvoiced_frames_have_no_pitch():
    bins = torch.linspace(math.log(50), math.log(400), 10)
    logits = torch.randn(1, 2, 10)
    f0, voiced = torch.tensor([[100.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    both = pitch_loss(logits, bins, f0, voiced)
    alone = pitch_loss(logits[:, :1], bins, f0[:, :1], voiced[:, :1])
    assert both == pytest.approx(float(alone))
    assert pitch_loss(logits, bins, f0, torch.zeros(1, 2)) == 0


def test_an_octave_is_1200_cents():
    f0 = torch.tensor([[200.0, 100.0, 50.0]])
    target, voiced = torch.full((1, 3), 100.0), torch.tensor([[1.0, 1.0, 0.0]])
    assert f0_error_cents(f0, target, voiced) == pytest.approx(600.0)


def test_voicing_loss_of_an_undecided_network():
    assert voicing_loss(torch.zeros(1, 4), torch.ones(1, 4)) == pytest.approx(math.log(2))
