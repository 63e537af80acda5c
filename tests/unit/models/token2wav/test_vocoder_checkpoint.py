"""A checkpoint's vocoder is chosen by its configuration."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stepaudio.errors import ConfigError
from stepaudio.models.token2wav.hift import HiftVocoder
from stepaudio.models.token2wav.hift_config import HiftConfig
from stepaudio.models.token2wav.istft_vocoder import IstftVocoder, IstftVocoderConfig
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.source_filter_vocoder import SourceFilterVocoder
from stepaudio.models.token2wav.vocoder_checkpoint import (
    VocoderConfig,
    load_vocoder,
    read_vocoder_config,
    write_vocoder_config,
)
from tests.unit.models.token2wav.conftest import small_hift_config

SMALL = IstftVocoderConfig(
    in_channels=6, sampling_rate=8000, hidden_size=8, num_layers=1, hop_length=16, n_fft=32
)
PULSES = SourceFilterConfig(
    in_channels=6,
    sampling_rate=8000,
    highest_mel_hz=4000.0,
    hidden_size=8,
    num_layers=1,
    hop_length=16,
    n_fft=64,
)
MODELS = {
    HiftConfig: HiftVocoder,
    IstftVocoderConfig: IstftVocoder,
    SourceFilterConfig: SourceFilterVocoder,
}


@pytest.mark.parametrize("config", [small_hift_config(), SMALL, PULSES, HiftConfig()])
def test_round_trip(config: VocoderConfig) -> None:
    assert read_vocoder_config(write_vocoder_config(config)) == config


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "wavenet"},
        {"kind": "istft", "base_channels": 3},
        {"kind": "source_filter", "n_fft": 3},
    ],
)
def test_unusable_values(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_vocoder_config(values)


@pytest.mark.parametrize("config", [small_hift_config(), SMALL, PULSES])
@torch.inference_mode()
def test_all_have_one_interface(tmp_path: Path, config: VocoderConfig) -> None:
    model = MODELS[type(config)](config)
    path = tmp_path / "vocoder.safetensors"
    save_file(model.state_dict(), path)
    vocoder = load_vocoder(path, config)
    mel = torch.randn(6, 40)
    assert (vocoder.sample_rate, vocoder.num_mels, vocoder.hop_length) == (8000, 6, 16)
    whole = vocoder.synthesise(mel[None], [40], seeds=[7])[0]
    state = vocoder.init_state(mode="exact", seed=7)
    [first], [state] = vocoder.step([mel[:, :25]], [state], [False])
    [second], _ = vocoder.step([mel[:, 25:]], [state], [True])
    assert len(first) > 0
    assert torch.allclose(torch.cat([first, second]), whole, atol=2e-5)
