"""The S3 tokenizer: configuration, codes, lengths, windows, training."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer, load_s3_tokenizer
from stepaudio.models.token2wav.tokenizing import tokenize_windows


def small_config(**changes: Any) -> S3Config:
    values: dict[str, Any] = {
        "n_mels": 8,
        "n_audio_state": 16,
        "n_audio_head": 2,
        "n_audio_layer": 2,
        "fsmn_kernel": 5,
        "codebook_levels": (3, 5, 7),
    }
    return S3Config(**values | changes)


@pytest.fixture(scope="module")
def tokenizer() -> S3Tokenizer:
    torch.manual_seed(0)
    return S3Tokenizer(small_config()).eval()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_audio_head": 3}, "multiple of n_audio_head"),
        ({"n_audio_head": 16}, "even"),
        ({"fsmn_kernel": 4}, "odd"),
        ({"codebook_levels": (4, 3)}, "odd and at least 3"),
        ({"codebook_levels": ()}, "odd and at least 3"),
        ({"window_s": 4}, "below window_s"),
        ({"conv_strides": (2, 7)}, "whole tokens"),
    ],
)
def test_contradictory_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)


def test_configuration_round_trip() -> None:
    assert S3Config.from_dict(small_config().to_dict()) == small_config()


def test_every_code_has_its_values(tokenizer: S3Tokenizer) -> None:
    codes = torch.arange(tokenizer.codebook_size)
    assert tokenizer.codebook_size == 105
    values = tokenizer.codebook.values(codes)
    assert torch.equal(tokenizer.codebook.codes(values), codes)
    assert values.min() == -1 and values.max() == 1
    assert values[1].tolist() == [0, -1, -1]  # the first digit counts least


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4))
@settings(max_examples=20)
def test_batch_equals_single_rows(tokenizer: S3Tokenizer, lens: list[int]) -> None:
    mel = torch.randn(len(lens), 8, max(lens))
    codes, counts = tokenizer.encode(mel, torch.tensor(lens))
    for row, length in enumerate(lens):
        single, [count] = tokenizer.encode(mel[row : row + 1, :, :length], torch.tensor([length]))
        assert count == counts[row] == tokenizer.config.num_tokens(length) == single.shape[1]
        assert torch.equal(codes[row, :count], single[0])
        assert not codes[row, count:].any()


def test_it_learns() -> None:
    tokenizer = S3Tokenizer(small_config())
    values, lens = tokenizer(torch.randn(2, 8, 40), torch.tensor([40, 30]))
    assert lens.tolist() == [10, 8]
    values.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in tokenizer.parameters())


@given(st.integers(1, 20_000))
def test_windows_cover_everything_once(num_frames: int) -> None:
    config = small_config()
    windows = config.windows(num_frames)
    assert windows[0][0] == 0 and windows[-1][1] == num_frames
    assert all(stop - start <= 3000 for start, stop in windows)
    assert all(stop - start == 3000 for start, stop in windows[:-1])
    shared = [before[1] - after[0] for before, after in pairwise(windows)]
    assert set(shared) <= {400}
    # Half of what neighbours share is dropped at each side of the joint: no token twice or never.
    tokens = sum(config.num_tokens(stop - start) for start, stop in windows)
    assert tokens - 100 * (len(windows) - 1) == config.num_tokens(num_frames)


def test_joints_of_long_recordings() -> None:
    config = small_config()
    heard: list[int] = []

    def encode(mel: torch.Tensor) -> torch.Tensor:
        heard.append(mel.shape[-1])
        return torch.arange(config.num_tokens(mel.shape[-1])) + 10_000 * len(heard)

    codes = tokenize_windows(torch.zeros(config.n_mels, 6100), config, encode)
    assert heard == [3000, 3000, 900]
    assert len(codes) == 61 * 25
    # Windows begin every 26 s = 650 tokens; the first ends 2 s before its end, and so on.
    assert codes[699] == 10_699 and codes[700] == 20_050
    assert codes[1349] == 20_699 and codes[1350] == 30_050


def test_short_recordings(tokenizer: S3Tokenizer) -> None:
    assert tokenizer.tokenize(torch.zeros(100)).shape == (0,)
    assert tokenizer.tokenize(torch.randn(16_000)).shape == (25,)


def test_loading(tmp_path: Path, tokenizer: S3Tokenizer) -> None:
    path = tmp_path / "s3.safetensors"
    save_file(tokenizer.state_dict(), path)
    loaded = load_s3_tokenizer(path, tokenizer.config)
    wav = torch.randn(16_000)
    assert torch.equal(loaded.tokenize(wav), tokenizer.tokenize(wav))
    assert not loaded.training
    with pytest.raises(CheckpointError, match=r"s3\.safetensors.*missing.*blocks\.2"):
        load_s3_tokenizer(path, small_config(n_audio_layer=3))
