"""Scores of speech output: exact on sounds whose scores are known."""

import numpy as np
import pytest
import torch

from stepaudio.audio.prompt_features import VoiceMel
from stepaudio_eval.speech import (
    SpeechSet,
    intelligibility,
    mean_opinion,
    mel_distances,
    save_figure,
)

RATE = 24_000


def speech_like(seed, seconds=2.0):
    """Noise whose loudness changes like that of syllables."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(seconds * RATE)) / RATE
    envelope = 0.1 + (torch.sin(2 * torch.pi * 4 * time) > 0).float()
    return 0.2 * envelope * torch.randn(len(time), generator=generator)


@pytest.fixture
def natural():
    return SpeechSet("natural", RATE, [speech_like(0), speech_like(1)])


def made(*wavs):
    return SpeechSet("resynth", RATE, list(wavs), seconds=1.0)


def test_a_copy_is_perfect(natural):
    copy = made(*natural.wavs)
    assert mel_distances(natural, copy, VoiceMel()) == [0.0, 0.0]
    assert intelligibility(natural, copy) == pytest.approx([1.0, 1.0], abs=1e-3)


def test_a_louder_copy_is_the_logarithm_of_its_gain_away(natural):
    louder = made(*(2 * wav for wav in natural.wavs))
    found = mel_distances(natural, louder, VoiceMel())
    assert found == pytest.approx([np.log(2)] * 2, abs=1e-3)


def test_noise_is_less_intelligible_the_louder_it_is(natural):
    noise = torch.randn(2 * RATE, generator=torch.Generator().manual_seed(9))
    faint, loud = (made(*(wav + gain * noise for wav in natural.wavs)) for gain in (0.02, 0.5))
    assert intelligibility(natural, loud)[0] < intelligibility(natural, faint)[0] < 1


def test_sounds_of_other_lengths_are_compared_over_what_both_have(natural):
    shorter = made(*(wav[:-2000] for wav in natural.wavs))
    assert mel_distances(natural, shorter, VoiceMel())[0] < 0.02


def test_speech_is_judged_at_16_khz(natural):
    assert [len(wav) for wav in natural.heard()] == [32_000, 32_000]
    assert natural.audio_s == 4.0


def test_opinions_lie_on_the_scale():
    pytest.importorskip("speechmos")
    score = mean_opinion([speech_like(3, 1.0).repeat(5)[: 16_000 * 4]])
    assert 1.0 <= score <= 5.0


def test_a_picture_is_written(natural, tmp_path):
    save_figure(tmp_path / "new" / "a.png", [natural, made(*natural.wavs)], 1, "two sounds")
    data = (tmp_path / "new" / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000
