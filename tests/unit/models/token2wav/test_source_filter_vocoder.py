"""The source-filter vocoder: configuration, loading, streaming."""

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
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.source_filter_vocoder import (
    SourceFilterState,
    SourceFilterVocoder,
    load_source_filter_vocoder,
    prepare_inference,
)

CONFIG = SourceFilterConfig(
    in_channels=6,
    sampling_rate=8000,
    hop_length=16,
    highest_mel_hz=3000.0,
    silence=-2.0,
    n_fft=64,
    hidden_size=8,
    intermediate_size=9,
    num_layers=2,
    kernel_size=4,
    lookahead=1,
    pitch_bins=5,
)
TOLERANCE = 1e-5
chunkings = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda c: sum(c) > 0)


def vocoder_of(config: SourceFilterConfig) -> SourceFilterVocoder:
    torch.manual_seed(0)
    return prepare_inference(SourceFilterVocoder(config))


@pytest.fixture(scope="module")
def vocoder() -> SourceFilterVocoder:
    return vocoder_of(CONFIG)


@torch.inference_mode()
def stream(
    vocoder: SourceFilterVocoder, mels: Sequence[Tensor], chunkings: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Sounds of sessions that share every step; session i has seed i."""
    states = [vocoder.init_state(mode="exact", seed=seed) for seed in range(len(mels))]
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
        ({"hidden_size": 0}, "positive"),
        ({"lookahead": 4}, "below kernel_size"),
        ({"lookahead": 0}, "at least 1"),
        ({"subframes": 3}, "multiple of subframes"),
        ({"n_fft": 20}, "three subframes"),
        ({"n_fft": 65}, "even"),
        ({"noise_modulation": 1.5}, "from 0 to 1"),
        ({"pitch_bins": 1}, "two pitch_bins"),
        ({"lowest_f0": 500.0}, "lowest_f0 below highest_f0"),
        ({"highest_f0": 4000.0}, "below half"),
        ({"highest_mel_hz": 4001.0}, "at most half"),
    ],
)
def test_contradictory_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_nano_is_small() -> None:
    vocoder = SourceFilterVocoder(SourceFilterConfig())
    assert sum(p.numel() for p in vocoder.parameters()) <= 550_000


def test_loading(tmp_path: Path, vocoder: SourceFilterVocoder) -> None:
    path = tmp_path / "vocoder.safetensors"
    save_file({name: value.float() for name, value in vocoder.state_dict().items()}, path)
    config = SourceFilterConfig.from_dict(CONFIG.to_dict())
    assert config == CONFIG
    mel = torch.randn(1, 6, 9)
    loaded = load_source_filter_vocoder(path, config)
    with torch.inference_mode():
        expected = vocoder.synthesise(mel, [9], seeds=[3])
        assert torch.allclose(loaded.synthesise(mel, [9], seeds=[3]), expected, atol=TOLERANCE)
    with pytest.raises(CheckpointError, match=r"blocks\.2\.gamma"):
        load_source_filter_vocoder(path, dataclasses.replace(CONFIG, num_layers=3))


def test_it_learns() -> None:
    fresh = SourceFilterVocoder(CONFIG)
    controls = fresh.controls(torch.randn(2, 6, 10))
    f0 = torch.full((2, 9), 100.0)
    sound = fresh(controls.filters, f0, torch.ones(2, 9), [0, 1])
    assert sound.shape == (2, 9 * 16)
    (sound.square().sum() + controls.f0.sum() + controls.voicing.sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in fresh.parameters())


@torch.inference_mode()
def test_training_hears_what_inference_hears(vocoder: SourceFilterVocoder) -> None:
    mel = torch.randn(1, 6, 12)
    # What stands in for the end of the sound in inference.
    padded = torch.nn.functional.pad(mel, (0, 1), value=CONFIG.silence)
    controls = vocoder.controls(padded)
    sound = vocoder(controls.filters, controls.f0, controls.voicing.sigmoid(), [5])
    whole = vocoder.synthesise(mel, [12], seeds=[5])
    assert torch.allclose(sound.clamp(-0.99, 0.99), whole, atol=TOLERANCE)


@torch.inference_mode()
def test_pitch_and_voicing_are_heard(vocoder: SourceFilterVocoder) -> None:
    filters = torch.zeros(1, 200, 2, CONFIG.filter_points)
    filters[:, :, 1] = -20.0
    f0 = torch.full((1, 100), 250.0)
    voiced = torch.cat([torch.ones(1, 50), torch.zeros(1, 50)], dim=1)
    sound = vocoder(filters, f0, voiced, [0])[0]
    tone, rest = sound[:768], sound[820:]
    period = 32
    assert torch.allclose(tone[64:-period], tone[64 + period :], atol=1e-3)
    assert tone.abs().max() > 1.0
    assert rest.abs().max() < 1e-4


@torch.inference_mode()
def test_batch_equals_single_rows(vocoder: SourceFilterVocoder) -> None:
    lens = [7, 1, 15]
    mel = torch.randn(3, 6, 15)
    wavs = vocoder.synthesise(mel, lens, seeds=[1, 2, 3])
    assert wavs.shape == (3, 240)
    for row, length in enumerate(lens):
        single = vocoder.synthesise(mel[row : row + 1, :, :length], [length], seeds=[row + 1])[0]
        assert torch.allclose(wavs[row, : 16 * length], single, atol=TOLERANCE)
        assert not wavs[row, 16 * length :].any()
        assert 0.01 < single.abs().max() <= 0.99


@torch.inference_mode()
def test_seeds_choose_the_noise_only(vocoder: SourceFilterVocoder) -> None:
    mel = torch.randn(1, 6, 15)
    one, again, other = (vocoder.synthesise(mel, [15], seeds=[s])[0] for s in (1, 1, 2))
    without = vocoder.synthesise(mel, [15], seeds=None)[0]
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 0.01
    assert 0.001 < without.square().mean() < one.square().mean()


@given(
    chunks=chunkings,
    kernel=st.integers(2, 5),
    lookahead=st.integers(1, 4),
    layers=st.integers(1, 2),
    subframes=st.sampled_from([1, 2, 4]),
    n_fft=st.sampled_from([48, 64, 90]),
)
@settings(max_examples=40)
def test_stream_equals_the_whole(
    chunks: list[int], kernel: int, lookahead: int, layers: int, subframes: int, n_fft: int
) -> None:
    vocoder = vocoder_of(
        dataclasses.replace(
            CONFIG,
            kernel_size=kernel,
            lookahead=min(lookahead, kernel - 1),
            num_layers=layers,
            subframes=subframes,
            n_fft=n_fft,
        )
    )
    mel = torch.randn(6, sum(chunks))
    [streamed] = stream(vocoder, [mel], [chunks])
    with torch.inference_mode():
        whole = vocoder.synthesise(mel[None], [sum(chunks)], seeds=[0])[0]
    assert streamed.shape == (sum(chunks) * 16,)
    assert torch.allclose(streamed, whole, atol=TOLERANCE)


@given(chunkings=st.lists(chunkings, min_size=2, max_size=4))
@settings(max_examples=20)
def test_many_sessions_equal_single_ones(
    vocoder: SourceFilterVocoder, chunkings: list[list[int]]
) -> None:
    mels = [torch.randn(6, sum(chunks)) for chunks in chunkings]
    together = stream(vocoder, mels, chunkings)
    with torch.inference_mode():
        for seed, (mel, streamed) in enumerate(zip(mels, together, strict=True)):
            alone = vocoder.synthesise(mel[None], [mel.shape[-1]], seeds=[seed])[0]
            assert torch.allclose(streamed, alone, atol=TOLERANCE)


@torch.inference_mode()
def test_a_long_stream_does_not_drift(vocoder: SourceFilterVocoder) -> None:
    mel = torch.randn(6, 3000)
    [streamed] = stream(vocoder, [mel], [[7] * 428 + [4]])
    whole = vocoder.synthesise(mel[None], [3000], seeds=[0])[0]
    assert torch.allclose(streamed, whole, atol=TOLERANCE)


@torch.inference_mode()
def test_latency_and_memory(vocoder: SourceFilterVocoder) -> None:
    states: list[SourceFilterState] = [vocoder.init_state(mode="exact", seed=0)]
    sizes, sounded = [], 0
    for heard in range(1, 40):
        [wav], states = vocoder.step([torch.randn(6, 1)], states, [False])
        sounded += len(wav)
        assert sounded >= 16 * (heard - vocoder.lookahead_frames)
        state = states[0]
        tensors = [state.mel, *state.layers, state.source, state.excitation, state.ringing]
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
    assert max(sizes[10:]) <= max(sizes[:10])


@torch.inference_mode()
def test_a_session_that_hears_nothing(vocoder: SourceFilterVocoder) -> None:
    [wav], _ = vocoder.step([torch.zeros(6, 0)], [vocoder.init_state(mode="exact", seed=0)], [True])
    assert wav.shape == (0,)


def test_only_exact(vocoder: SourceFilterVocoder) -> None:
    with pytest.raises(ValueError, match="'exact' only"):
        vocoder.init_state(mode="reference", seed=0)


def test_empty_row(vocoder: SourceFilterVocoder) -> None:
    with pytest.raises(ValueError, match="needs a mel frame"):
        vocoder.synthesise(torch.zeros(1, 6, 3), [0], seeds=None)
