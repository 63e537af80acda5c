"""Augmentation: each effect does what it says, and the generator decides everything."""

import numpy as np
import pytest
import torch

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.training.augment import (
    AugmentConfig,
    add_noise,
    augment_waveform,
    change_speed,
    coloured_noise,
    reverberate,
    spec_augment,
    telephone,
)


def tone(hz, seconds=1.0):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def peak_hz(wav):
    return np.argmax(np.abs(np.fft.rfft(wav))) * SAMPLE_RATE / len(wav)


@pytest.mark.parametrize("speed", [0.85, 0.9, 1.1])
def test_speed_changes_length_and_pitch(speed):
    wav = change_speed(tone(400), speed)
    assert len(wav) == pytest.approx(SAMPLE_RATE / speed, abs=2)
    assert peak_hz(wav) == pytest.approx(400 * speed, rel=0.01)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_has_the_wanted_ratio(snr_db):
    wav = tone(400)
    noise = coloured_noise(len(wav), np.random.default_rng(0))
    added = add_noise(wav, noise, snr_db) - wav
    assert 10 * np.log10(np.mean(wav**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.1)


def test_reverberation_keeps_length_energy_and_alignment():
    impulse = np.zeros(4000, dtype=np.float32)
    impulse[100], impulse[1500] = 1.0, 0.4
    wav = np.zeros(8000, dtype=np.float32)
    wav[3000] = 1.0
    wet = reverberate(wav, impulse)
    assert len(wet) == len(wav)
    assert np.argmax(np.abs(wet)) == 3000
    assert np.mean(wet**2) == pytest.approx(np.mean(wav**2), rel=1e-3)


def test_telephone_removes_what_lies_above_four_kilohertz():
    low, high = telephone(tone(1000)), telephone(tone(6000))
    assert np.std(low) == pytest.approx(np.std(tone(1000)), rel=0.1)
    assert np.std(high) < 0.05 * np.std(tone(6000))


def test_spec_augment_masks_and_leaves_its_input():
    mel = torch.randn(80, 500)
    before = mel.clone()
    masked = spec_augment(mel, AugmentConfig(), np.random.default_rng(3))
    assert torch.equal(mel, before)
    share = (masked != mel).float().mean()
    assert 0 < share < 0.6


def test_same_seed_same_result_and_no_clipping():
    wav, config = tone(300, 2.0), AugmentConfig(gain_db=(20.0, 20.0))
    noises, impulses = [tone(50, 0.3)], [np.eye(1, 900, 10, dtype=np.float32)[0]]
    for seed in range(8):
        one, two = (
            augment_waveform(wav, config, np.random.default_rng(seed), noises, impulses)
            for _ in range(2)
        )
        assert np.array_equal(one, two)
        assert np.abs(one).max() <= 1.0
        assert one.dtype == np.float32
