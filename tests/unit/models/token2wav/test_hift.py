"""The HiFT vocoder: configuration, loading, streaming."""

import dataclasses
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepaudio.audio.prompt_features import fade_window
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.hift import (
    Excitation,
    HiftVocoder,
    load_hift,
    prepare_inference,
)
from stepaudio.models.token2wav.hift_config import HiftConfig, HiftReach
from stepaudio.models.token2wav.hift_stream import Hift, HiftExactState, HiftState
from stepaudio.models.token2wav.windows import StageTail
from tests.unit.models.token2wav.conftest import small_hift_config

TOLERANCE = 2e-5
few = settings(max_examples=20)
chunkings = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda c: sum(c) > 0)


def random_mel(num_frames: int) -> Tensor:
    return torch.randn(6, num_frames)


@torch.inference_mode()
def stream(
    vocoder: Hift, mels: Sequence[Tensor], chunkings: Sequence[Sequence[int]], mode: Any
) -> list[Tensor]:
    """Feed sessions side by side; a session that has ended is not in the batch any more."""
    states: list[HiftState] = [vocoder.init_state(mode=mode, seed=i) for i in range(len(mels))]
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


# ---- configuration and loading -----------------------------------------------------------------


def test_configuration_round_trip() -> None:
    config = small_hift_config()
    assert HiftConfig.from_dict(config.to_dict()) == config
    assert HiftConfig.from_dict({}) == HiftConfig()
    assert HiftConfig().hop_length == 480


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upsample_kernel_sizes": (8, 5)}, "even number"),
        ({"upsample_kernel_sizes": (8,)}, "one value for each"),
        ({"base_channels": 6}, "multiple of 4"),
        ({"resblock_kernel_sizes": (3, 4)}, "odd"),
        ({"resblock_dilation_sizes": ((1,),)}, "one list for each"),
        ({"in_channels": 7}, "differ"),
        ({"stream_cache_frames": 0}, "positive"),
    ],
)
def test_contradictory_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(small_hift_config(), **change)


def test_unknown_field() -> None:
    with pytest.raises(ConfigError, match="upsample_rate"):
        HiftConfig.from_dict({"upsample_rate": [8]})


def stored_forms(model: HiftVocoder) -> dict[str, dict[str, Tensor]]:
    normed = model.state_dict()
    original = "parametrizations.weight.original"
    old = {
        k.replace(f"{original}0", "weight_g").replace(f"{original}1", "weight_v"): v
        for k, v in normed.items()
    }
    fused = HiftVocoder(model.config)
    fused.load_state_dict(normed)
    prepare_inference(fused)
    return {
        "normed": normed,
        "prefixed": {f"generator.{k}": v for k, v in normed.items()},
        "old": old,
        "plain": {k: v.detach() for k, v in fused.state_dict().items()},
    }


@pytest.mark.parametrize("form", ["normed", "prefixed", "old", "plain"])
@pytest.mark.parametrize("trainable", [False, True])
@torch.no_grad()
def test_every_stored_form(tmp_path: Path, form: str, trainable: bool) -> None:
    model = HiftVocoder(small_hift_config())
    torch.save(stored_forms(model)[form], tmp_path / "hift.pt")
    loaded = load_hift(tmp_path / "hift.pt", model.config, trainable=trainable)
    mel = random_mel(5)[None]
    expected, _ = model(mel, [5], Excitation([1]))
    assert torch.allclose(loaded(mel, [5], Excitation([1]))[0], expected, atol=1e-6)
    assert any("original0" in name for name in loaded.state_dict()) == trainable


def test_loading_lists_what_does_not_fit(tmp_path: Path) -> None:
    tensors = HiftVocoder(small_hift_config()).state_dict()
    tensors["extra"] = tensors.pop("conv_pre.bias")
    torch.save(tensors, tmp_path / "hift.pt")
    with pytest.raises(CheckpointError, match=r"hift\.pt.*missing.*conv_pre\.bias.*surplus.*extra"):
        load_hift(tmp_path / "hift.pt", small_hift_config())


# ---- whole signals -----------------------------------------------------------------------------


@torch.inference_mode()
def test_batch_equals_single_rows(small_hift: Hift) -> None:
    lens = [9, 1, 20]
    mel = torch.randn(3, 6, 20)
    wavs = small_hift.synthesise(mel, lens, seeds=[0, 1, 2])
    assert wavs.shape == (3, 20 * small_hift.hop_length)
    for row, length in enumerate(lens):
        single = small_hift.synthesise(mel[row : row + 1, :, :length], [length], seeds=[row])[0]
        samples = length * small_hift.hop_length
        assert torch.allclose(wavs[row, :samples], single, atol=TOLERANCE)
        assert not wavs[row, samples:].any()
        assert single.abs().max() > 0.01


@torch.inference_mode()
def test_seeds(small_hift: Hift) -> None:
    mel = random_mel(9)[None]
    first, again = (small_hift.synthesise(mel, [9], seeds=[4]) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, small_hift.synthesise(mel, [9], seeds=[5]))


def test_empty_row(small_hift: Hift) -> None:
    with pytest.raises(ValueError, match="needs a mel frame"):
        small_hift.synthesise(torch.zeros(1, 6, 3), [0], seeds=None)


def test_it_learns() -> None:
    model = HiftVocoder(small_hift_config())
    wav, _ = model(random_mel(4)[None], [4], Excitation([0]))
    wav.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The source is silent below the voiced threshold, where an untrained predictor lies; the
    # threshold itself has no gradient, and the magnitudes of unused frequencies neither.
    assert all(name.startswith("f0_predictor") for name in without)


# ---- streaming ---------------------------------------------------------------------------------


@few
@given(chunks=chunkings)
def test_exact_stream_equals_the_whole(small_hift: Hift, chunks: list[int]) -> None:
    mel = random_mel(sum(chunks))
    [streamed] = stream(small_hift, [mel], [chunks], "exact")
    with torch.inference_mode():
        whole = small_hift.synthesise(mel[None], [mel.shape[-1]], seeds=[0])[0]
    assert streamed.shape == whole.shape
    assert torch.allclose(streamed, whole, atol=TOLERANCE)


@settings(max_examples=6)
@given(chunkings=st.lists(chunkings, min_size=2, max_size=4))
def test_many_sessions_equal_single_ones(small_hift: Hift, chunkings: list[list[int]]) -> None:
    mels = [random_mel(sum(chunks)) for chunks in chunkings]
    for mode in ("exact", "reference"):
        together = stream(small_hift, mels, chunkings, mode)
        for i, streamed in enumerate(together):
            # Seeds are those of the sessions: the others stay silent here.
            silent = [[0]] * i
            alone = stream(small_hift, mels[: i + 1], [*silent, chunkings[i]], mode)[i]
            assert torch.allclose(streamed, alone, atol=TOLERANCE)


@few
@given(chunks=chunkings)
def test_samples_come_as_early_as_the_reach_allows(small_hift: Hift, chunks: list[int]) -> None:
    mel = random_mel(sum(chunks))
    states = [small_hift.init_state(mode="exact", seed=0)]
    heard = sounded = 0
    for n in chunks:
        with torch.inference_mode():
            [wav], states = small_hift.step([mel[:, heard : heard + n]], states, [False])
        heard += n
        sounded += len(wav)
        assert sounded == small_hift.reach.samples_ready(heard)
    with torch.inference_mode():
        [wav], _ = small_hift.step([mel[:, :0]], states, [True])
    assert sounded + len(wav) == heard * small_hift.hop_length


def tails_of(state: HiftState) -> list[StageTail]:
    assert isinstance(state, HiftExactState)
    single = [state.f0, state.source, state.pre, state.post]
    return [*single, *state.branches, *state.stages]


@torch.inference_mode()
def test_memory_is_bounded(small_hift: Hift) -> None:
    states = [small_hift.init_state(mode="exact", seed=0)]
    sizes = []
    for _ in range(30):
        _, states = small_hift.step([random_mel(10)], states, [False])
        sizes.append(sum(tail.values.numel() for tail in tails_of(states[0])))
    assert max(sizes[10:]) == sizes[9]
    for tail in tails_of(states[0]):  # nothing keeps a whole window alive
        assert tail.values.untyped_storage().nbytes() == tail.values.nbytes


def ladder_cost(config: HiftConfig, counts: Sequence[int]) -> int:
    """Multiplications of all residual blocks, nearly all there are, over chunks of mel frames."""
    reach = HiftReach.of(config)
    kernels, side_kernels = config.resblock_kernel_sizes, config.source_resblock_kernel_sizes
    total = 0
    ladder = [0] * (config.num_stages + 1)
    done = [[0, 0] for _ in range(config.num_stages)]  # outputs of branch and stage
    for heard in accumulate(counts):
        last = heard == sum(counts)
        spectrum = reach.source.ready(reach.f0.ready(heard, last=last), last=last)
        ladder[0] = reach.pre.ready(heard, last=last)
        for i in range(config.num_stages):
            width = config.stage_channels(i)
            parts = (
                (reach.branches[i], spectrum, side_kernels[i]),
                (reach.stages[i], ladder[i], sum(kernels)),
            )
            for which, (part, known, taps) in enumerate(parts):
                if which == 1:
                    known = min(known, (done[i][0] - part.extra) // part.up)
                ready = part.ready(known, last=last)
                if ready > done[i][which]:
                    computed = part.outputs(known - part.window_start(done[i][which]))
                    total += computed * taps * 6 * width * width
                    done[i][which] = ready
            ladder[i + 1] = done[i][1]
    return total


def test_chunks_of_a_second_cost_little_more_at_full_size() -> None:
    whole = ladder_cost(HiftConfig(), [1000])
    chunks = ladder_cost(HiftConfig(), [50] * 20)
    assert 1.05 < chunks / whole < 1.15


def test_modes_do_not_mix(small_hift: Hift) -> None:
    states = [small_hift.init_state(mode="exact", seed=0)]
    states.append(small_hift.init_state(mode="reference", seed=0))
    with pytest.raises(ValueError, match="one streaming mode"):
        small_hift.step([random_mel(3)] * 2, states, [False] * 2)


@torch.inference_mode()
def test_reference_stream_is_the_public_recipe(small_hift: Hift) -> None:
    cache, hop = small_hift.config.stream_cache_frames, small_hift.hop_length
    overlap = cache * hop
    window = fade_window(overlap)
    chunks = [10, 7, 2, 12]
    mel = random_mel(sum(chunks))
    expected: list[Tensor] = []
    heard, source, held = mel[:, :0], torch.zeros(1, 0), torch.zeros(0)
    start = 0
    for index, n in enumerate(chunks):
        heard = torch.cat([heard, mel[:, start : start + n]], dim=-1)
        first = start + n - heard.shape[-1]
        excitation = Excitation([0], [first * hop], [source])
        wavs, sources = small_hift.model(heard[None], [heard.shape[-1]], excitation)
        speech = wavs[0]
        if index:
            speech = speech.clone()
            speech[:overlap] = speech[:overlap] * window[:overlap] + held * window[overlap:]
        is_last = index == len(chunks) - 1
        expected.append(speech if is_last else speech[:-overlap])
        heard, source, held = heard[:, -cache:], sources[0, :, -overlap:], speech[-overlap:]
        start += n
    [streamed] = stream(small_hift, [mel], [chunks], "reference")
    assert torch.allclose(streamed, torch.cat(expected), atol=1e-6)
    assert len(streamed) == sum(chunks) * hop
