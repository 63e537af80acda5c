"""Pulses and filters against direct computations."""

import math

import numpy as np
import pytest
import torch

from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.source_filter_signal import (
    filter_basis,
    filtered,
    interpolated,
    modulated,
    pulse_train,
)

CONFIG = SourceFilterConfig()


def test_points_of_a_filter_are_the_centres_of_the_mel_bands() -> None:
    magnitude = filter_basis(CONFIG)[:, : CONFIG.n_fft // 2 + 1]
    assert CONFIG.filter_points == 93
    # 8 kHz is the upper edge of the eightieth band, and the point behind its centre.
    at_8000 = 8000 * CONFIG.n_fft / CONFIG.sampling_rate
    assert magnitude[81, round(at_8000)] > 0.95
    assert np.allclose(magnitude.sum(axis=0), 1.0, atol=1e-5)


def test_a_filter_has_the_smallest_phase() -> None:
    points = torch.cos(torch.linspace(0, 20, CONFIG.filter_points))
    magnitude, phase = (points @ torch.from_numpy(filter_basis(CONFIG))).chunk(2)
    response = torch.fft.irfft(torch.polar(magnitude.exp(), phase), CONFIG.n_fft)
    energy = response.square()
    assert energy[:64].sum() > 0.9 * energy.sum()
    assert energy[512:].sum() < 1e-3 * energy.sum()
    # The first sample of the smallest phase is the geometric mean of all magnitudes.
    log_mean = (magnitude[:-1].sum() + magnitude[1:].sum()) / CONFIG.n_fft
    assert response[0] == pytest.approx(float(log_mean.exp()), rel=0.02)


@pytest.mark.parametrize("f0", [60.0, 123.4, 480.0])
def test_pulses_are_the_sum_of_all_harmonics(f0: float) -> None:
    rate, size = 8000, 500
    hz = torch.full((1, size), f0, dtype=torch.float64)
    pulses, cycles = pulse_train(hz, torch.zeros(1, 1, dtype=torch.float64), rate)
    phase = 2 * math.pi * f0 / rate * torch.arange(1, size + 1, dtype=torch.float64)
    assert torch.allclose(2 * math.pi * cycles[0], phase)
    limit = rate / 2 / f0 - 1
    whole = math.floor(limit)
    expected = sum(torch.cos(k * phase) for k in range(1, whole + 1))
    expected = expected + (limit - whole) * torch.cos((whole + 1) * phase)
    assert torch.allclose(pulses[0].double(), expected * math.sqrt(2 / limit), atol=1e-4)


def test_pulses_have_power_one_at_every_pitch() -> None:
    f0 = torch.linspace(80, 400, 48_000, dtype=torch.float64)[None]
    pulses, _ = pulse_train(f0, torch.zeros(1, 1, dtype=torch.float64), 24_000)
    powers = pulses[0].square().unfold(0, 8000, 8000).mean(-1)
    assert torch.allclose(powers, torch.ones(6), atol=0.05)


def test_no_harmonic_begins_or_ends_at_once() -> None:
    # Ten harmonics fit below 4 kHz at 400 Hz, and nine just above.
    f0 = torch.tensor([[400.0 - 1e-6], [400.0 + 1e-6]], dtype=torch.float64).expand(2, 300)
    pulses, _ = pulse_train(f0, torch.zeros(2, 1, dtype=torch.float64), 8000)
    assert torch.allclose(pulses[0], pulses[1], atol=1e-4)


def test_the_peak_of_a_pulse_is_finite() -> None:
    f0 = torch.full((1, 40), 100.0, dtype=torch.float64)
    pulses, _ = pulse_train(f0, torch.full((1, 1), -0.25, dtype=torch.float64), 2000)
    assert pulses.isfinite().all()
    assert pulses[0].argmax() == 4  # a quarter of a period behind the start


def test_lines_end_at_their_values() -> None:
    lines = interpolated(torch.tensor([[4.0, 2.0]]), torch.tensor([[0.0]]), 4)
    assert lines.tolist() == [[1.0, 2.0, 3.0, 4.0, 3.5, 3.0, 2.5, 2.0]]


def test_modulated_noise_swells_at_pulses_and_keeps_its_power() -> None:
    noise, cycles = torch.randn(1, 100_000), 0.01 * torch.arange(100_000.0, dtype=torch.float64)
    assert torch.equal(modulated(noise, cycles[None], torch.zeros(1, 1)), noise)
    power = modulated(noise, cycles[None], torch.full((1, 1), 0.5))[0].square()
    assert power.mean() == pytest.approx(1.0, abs=0.03)
    by_phase = power.unfold(0, 100, 100).mean(0)
    assert by_phase[0] == pytest.approx(1.5**2 / 1.125, rel=0.15)
    assert by_phase[50] == pytest.approx(0.5**2 / 1.125, rel=0.15)


def test_flat_filters_give_back_the_excitations() -> None:
    step, subframes = CONFIG.subframe_length, 6
    excitation = torch.randn(2, 2, (subframes + 1) * step)
    levels = torch.tensor([2.0, 0.5]).log()[:, None]
    filters = levels.expand(2, subframes, 2, CONFIG.filter_points)
    sound = filtered(excitation, filters, CONFIG)
    assert sound.shape == (2, (subframes - 1) * step + CONFIG.n_fft)
    inner = slice(step, subframes * step)
    expected = 2.0 * excitation[:, 0, inner] + 0.5 * excitation[:, 1, inner]
    assert torch.allclose(sound[:, inner], expected, atol=1e-5)
