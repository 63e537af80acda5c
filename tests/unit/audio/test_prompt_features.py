"""Features of a voice prompt."""

import numpy as np
import pytest
import torch

from stepaudio.audio.prompt_features import FBANK_WINDOW, VoiceMel, fade_window, kaldi_fbank


@pytest.mark.parametrize("num_samples", [721, 960, 24_000, 24_479])
def test_frame_count(num_samples: int) -> None:
    mel = VoiceMel()(torch.randn(2, num_samples))
    assert mel.shape == (2, 80, num_samples // 480)
    assert mel.isfinite().all()


def test_batch_equals_single() -> None:
    wav = torch.randn(3, 2, 5000)
    mel = VoiceMel()(wav)
    assert mel.shape == (3, 2, 80, 10)
    assert torch.allclose(mel[1, 1], VoiceMel()(wav[1, 1]), atol=1e-5)


def test_other_sizes() -> None:
    small = VoiceMel(sample_rate=16_000, num_mels=20, window=640, hop=160, highest_hz=7_000.0)
    assert small(torch.randn(1600)).shape == (20, 10)


def test_the_mel_of_silence_is_its_floor_and_has_a_gradient() -> None:
    wav = torch.zeros(4800, requires_grad=True)
    mel = VoiceMel()(wav)
    assert torch.allclose(mel, torch.tensor(1e-5).log())
    mel.sum().backward()
    assert wav.grad is not None and wav.grad.isfinite().all()


def test_too_short_for_reflection() -> None:
    with pytest.raises(ValueError, match="longer than 720 samples, got 720"):
        VoiceMel()(torch.zeros(720))


def test_fbank_counts_and_mean() -> None:
    assert kaldi_fbank(torch.zeros(FBANK_WINDOW - 1)).shape == (0, 80)
    features = kaldi_fbank(torch.randn(16_000))
    assert features.shape == (98, 80)
    assert features.mean(dim=0).abs().max() < 1e-5


def test_fbank_has_no_dither() -> None:
    wav = torch.randn(8000)
    assert torch.equal(kaldi_fbank(wav), kaldi_fbank(wav))


def test_fade_window_is_numpys() -> None:
    expected = torch.from_numpy(np.hamming(7680)).float()
    assert torch.equal(fade_window(3840), expected)
