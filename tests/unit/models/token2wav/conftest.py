"""Small vocoders."""

from __future__ import annotations

import pytest
import torch

from stepaudio.models.token2wav.hift import HiftVocoder, prepare_inference
from stepaudio.models.token2wav.hift_config import F0Config, HiftConfig, IstftConfig
from stepaudio.models.token2wav.hift_stream import Hift


def small_hift_config() -> HiftConfig:
    """Every part of the public vocoder with other numbers."""
    return HiftConfig(
        in_channels=6,
        base_channels=8,
        nb_harmonics=2,
        sampling_rate=8000,
        upsample_rates=(4, 2),
        upsample_kernel_sizes=(8, 6),
        istft_params=IstftConfig(n_fft=8, hop_len=2),
        resblock_kernel_sizes=(3, 5),
        resblock_dilation_sizes=((1, 3), (1, 2)),
        source_resblock_kernel_sizes=(3, 5),
        source_resblock_dilation_sizes=((1, 2), (1,)),
        f0_predictor=F0Config(in_channels=6, cond_channels=5),
        stream_cache_frames=3,
    )


def audible(model: HiftVocoder) -> HiftVocoder:
    """Change random weights in place: alone they would give hardly any sound, and no voice."""
    with torch.no_grad():
        model.f0_predictor.classifier.bias.fill_(180.0)
        model.f0_predictor.classifier.weight.mul_(200.0)
        model.conv_post.parametrizations.weight.original0.mul_(4.0)
    return model


@pytest.fixture(scope="session")
def small_hift() -> Hift:
    torch.manual_seed(1)
    return Hift(prepare_inference(audible(HiftVocoder(small_hift_config()))))
