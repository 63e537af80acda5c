"""The light vocoder: configuration, loading, streaming."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.istft_vocoder import (
    IstftState,
    IstftVocoder,
    IstftVocoderConfig,
    load_istft_vocoder,
)
from stepaudio.models.token2wav.vocoder import Vocoder

CONFIG = IstftVocoderConfig(
    in_channels=5,
    sampling_rate=8000,
    hop_length=8,
    n_fft=28,
    hidden_size=6,
    intermediate_size=9,
    num_layers=3,
    kernel_size=4,
    lookahead=1,
)
TOLERANCE = 1e-5
chunkings = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda c: sum(c) > 0)


def vocoder_of(config: IstftVocoderConfig) -> IstftVocoder:
    torch.manual_seed(0)
    return IstftVocoder(config).eval()


@pytest.fixture(scope="module")
def vocoder() -> IstftVocoder:
    return vocoder_of(CONFIG)


@torch.inference_mode()
def stream(
    vocoder: Vocoder[IstftState], mels: Sequence[Tensor], chunkings: Sequence[Sequence[int]]
) -> list[Tensor]:
    states = [vocoder.init_state(mode="exact", seed=0) for _ in mels]
    given = [0] * len(mels)
    parts: list[list[Tensor]] = [[] for _ in mels]
    for step in range(max(map(len, chunkings))):
        rows = [i for i, chunks in enumerate(chunkings) if step < len(chunks)]
        news = [mels[i][:, given[i] : given[i] + chunkings[i][step]] for i in rows]
        last = [step == len(chunkings[i]) - 1 for i in rows]
        wavs, advanced = vocoder.step(news, [states[i] for i in rows], last)
        for i, wav, state in zip(rows, wavs, advanced, strict=True):
            given[i] += chunkings[i][step]
            parts[i].append(wav)
            states[i] = state
    return [torch.cat(part) for part in parts]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_fft": 14}, "at least twice"),
        ({"n_fft": 29}, "even"),
        ({"lookahead": 4}, "below kernel_size"),
        ({"hidden_size": 0}, "positive"),
    ],
)
def test_contradictory_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_loading(tmp_path: Path, vocoder: IstftVocoder) -> None:
    path = tmp_path / "vocoder.safetensors"
    save_file(vocoder.state_dict(), path)
    config = IstftVocoderConfig.from_dict(CONFIG.to_dict())
    assert config == CONFIG
    mel = torch.randn(1, 5, 9)
    loaded = load_istft_vocoder(path, config)
    with torch.no_grad():
        assert torch.equal(loaded(mel, [9]), vocoder(mel, [9]))
    with pytest.raises(CheckpointError, match=r"blocks\.3\.gamma"):
        load_istft_vocoder(path, dataclasses.replace(CONFIG, num_layers=4))


def test_it_learns() -> None:
    fresh = IstftVocoder(CONFIG)
    fresh(torch.randn(2, 5, 9), [9, 7]).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in fresh.parameters())


@torch.inference_mode()
def test_batch_equals_single_rows(vocoder: IstftVocoder) -> None:
    lens = [7, 1, 15]
    mel = torch.randn(3, 5, 15)
    wavs = vocoder.synthesise(mel, lens, seeds=None)
    assert wavs.shape == (3, 120)
    for row, length in enumerate(lens):
        single = vocoder(mel[row : row + 1, :, :length], [length])[0]
        assert torch.allclose(wavs[row, : 8 * length], single, atol=TOLERANCE)
        assert not wavs[row, 8 * length :].any()
        assert single.abs().max() > 0.01


@given(
    chunks=chunkings,
    kernel=st.integers(1, 5),
    lookahead=st.integers(0, 4),
    layers=st.integers(0, 2),
    n_fft=st.sampled_from([16, 18, 24, 28, 40]),
)
@settings(max_examples=40)
def test_stream_equals_the_whole(
    chunks: list[int], kernel: int, lookahead: int, layers: int, n_fft: int
) -> None:
    vocoder = vocoder_of(
        dataclasses.replace(
            CONFIG,
            kernel_size=kernel,
            lookahead=min(lookahead, kernel - 1),
            num_layers=layers,
            n_fft=n_fft,
        )
    )
    mel = torch.randn(5, sum(chunks))
    [streamed] = stream(vocoder, [mel], [chunks])
    with torch.inference_mode():
        whole = vocoder(mel[None], [sum(chunks)])[0]
    assert streamed.shape == whole.shape
    assert torch.allclose(streamed, whole, atol=TOLERANCE)


@given(chunkings=st.lists(chunkings, min_size=2, max_size=4))
@settings(max_examples=20)
def test_many_sessions_equal_single_ones(vocoder: IstftVocoder, chunkings: list[list[int]]) -> None:
    mels = [torch.randn(5, sum(chunks)) for chunks in chunkings]
    together = stream(vocoder, mels, chunkings)
    for mel, chunks, streamed in zip(mels, chunkings, together, strict=True):
        [alone] = stream(vocoder, [mel], [chunks])
        assert torch.allclose(streamed, alone, atol=TOLERANCE)


@torch.inference_mode()
def test_latency_and_memory(vocoder: IstftVocoder) -> None:
    states = [vocoder.init_state(mode="exact", seed=0)]
    sizes, sounded = [], 0
    for heard in range(1, 40):
        [wav], states = vocoder.step([torch.randn(5, 1)], states, [False])
        sounded += len(wav)
        if heard > vocoder.lookahead_frames:
            assert sounded >= 8 * (heard - vocoder.lookahead_frames)
        state = states[0]
        sizes.append(
            state.mel.numel()
            + sum(tail.numel() for tail in state.layers)
            + state.synthesis.values.numel()
        )
    assert max(sizes[10:]) <= max(sizes[:10])


def test_only_exact(vocoder: IstftVocoder) -> None:
    with pytest.raises(ValueError, match="'exact' only"):
        vocoder.init_state(mode="reference", seed=0)


def test_empty_row(vocoder: IstftVocoder) -> None:
    with pytest.raises(ValueError, match="needs a mel frame"):
        vocoder(torch.zeros(1, 5, 3), [0])
