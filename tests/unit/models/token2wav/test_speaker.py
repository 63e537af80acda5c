"""Speaker encoders."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from stepaudio.audio.prompt_features import kaldi_fbank
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.speaker import (
    OnnxSpeakerEncoder,
    SpeakerConfig,
    SpeakerNetwork,
    load_speaker_network,
)
from tests.unit.models.token2wav.exports import export_speaker

CONFIG = SpeakerConfig(num_bins=20, channels=6, kernels=(3, 3), dilations=(1, 2), embedding_size=5)


@pytest.fixture(scope="module")
def network() -> SpeakerNetwork:
    torch.manual_seed(0)
    return SpeakerNetwork(CONFIG).eval()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": (3,)}, "one value for each"),
        ({"kernels": (), "dilations": ()}, "one value for each"),
        ({"kernels": (3, 4)}, "odd"),
        ({"channels": 0}, "positive"),
    ],
)
def test_contradictory_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4))
@settings(max_examples=20)
def test_batch_equals_single_rows(network: SpeakerNetwork, lens: list[int]) -> None:
    features = torch.randn(len(lens), max(lens), 20)
    embeddings = network(features, lens)
    assert embeddings.shape == (len(lens), 5)
    for row, length in enumerate(lens):
        single = network(features[row : row + 1, :length], [length])[0]
        assert torch.allclose(embeddings[row], single, atol=1e-5)


def test_it_learns(network: SpeakerNetwork) -> None:
    fresh = SpeakerNetwork(CONFIG)
    fresh(torch.randn(2, 12, 20), [12, 9]).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in fresh.parameters())


def test_loading(tmp_path: Path, network: SpeakerNetwork) -> None:
    save_file(network.state_dict(), tmp_path / "speaker.safetensors")
    loaded = load_speaker_network(tmp_path / "speaker.safetensors", CONFIG)
    wav = torch.randn(8000)
    torch.testing.assert_close(loaded.embed(wav), network.embed(wav), atol=1e-4, rtol=1e-4)
    assert loaded.embed(wav).shape == (loaded.embedding_size,)
    wider = dataclasses.replace(CONFIG, channels=7)
    with pytest.raises(CheckpointError, match="wrong shape"):
        load_speaker_network(tmp_path / "speaker.safetensors", wider)


def test_onnx_gives_the_same_embedding(tmp_path: Path) -> None:
    network = SpeakerNetwork(dataclasses.replace(CONFIG, num_bins=80)).eval()
    path = tmp_path / "campplus.onnx"
    export_speaker(network, path)
    encoder = OnnxSpeakerEncoder(path, embedding_size=5)
    wav = torch.randn(16_000)
    assert encoder.embed(wav).shape == (encoder.embedding_size,)
    assert torch.allclose(encoder.embed(wav), network.embed(wav), atol=1e-5)
    features = kaldi_fbank(wav)
    assert torch.allclose(network(features[None], [98])[0], network.embed(wav), atol=1e-6)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        OnnxSpeakerEncoder(tmp_path / "campplus.onnx")
