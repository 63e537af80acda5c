"""HiFT vocoder against names, shapes and numbers of the reference code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stepaudio.models.token2wav.hift import Excitation, HiftVocoder, load_hift
from stepaudio.models.token2wav.hift_config import HiftConfig

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def vocoder(vectors: Path) -> HiftVocoder:
    parts = json.loads((vectors / "hift_config.json").read_text())
    config = HiftConfig.from_dict({**parts["hift"], "f0_predictor": parts["f0_predictor"]})
    return load_hift(vectors / "hift.safetensors", config)


@pytest.fixture(scope="module")
def reference(vectors: Path) -> dict[str, Tensor]:
    return load_file(vectors / "hift_vectors.safetensors")


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max())


def test_full_size_names_and_shapes() -> None:
    path = Path(__file__).parent.parent / "assets" / "hift_shapes.json"
    with torch.device("meta"):
        vocoder = HiftVocoder(HiftConfig())
    shapes = {name: list(tensor.shape) for name, tensor in vocoder.state_dict().items()}
    assert shapes == json.loads(path.read_text())
    assert len(shapes) == 328


@torch.inference_mode()
def test_fundamental_frequency_and_source(
    vocoder: HiftVocoder, reference: dict[str, Tensor]
) -> None:
    lens = [reference["mel"].shape[-1]]
    f0 = vocoder.f0_predictor(reference["mel"], lens)
    assert error(f0[:, 0], reference["f0"]) < TOLERANCE
    # The reference's phase is summed up in float32; ours differs by its rounding.
    source = vocoder.excite(f0, lens, Excitation())
    assert error(source, reference["source_norandom"]) < TOLERANCE


@torch.inference_mode()
def test_waveforms(vocoder: HiftVocoder, reference: dict[str, Tensor]) -> None:
    mel = reference["mel"]
    lens = [mel.shape[-1]]
    wav, _ = vocoder(mel, lens, Excitation())
    assert error(wav, reference["wav_norandom"]) < TOLERANCE
    wav, source = vocoder(mel, lens, Excitation(cached=[reference["cache_source"][0]]))
    assert error(source, reference["source_cached"]) < TOLERANCE
    assert error(wav, reference["wav_cached"]) < TOLERANCE
    wav = vocoder.decode(mel, reference["source_given"], lens)
    assert error(wav, reference["wav_given"]) < 1e-5
