"""The flow against numbers of the reference code: offline, and streamed in five chunks."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.context import full_view
from stepaudio.models.token2wav.dit import Condition
from stepaudio.models.token2wav.flow import Flow, VoicePrompt, euler_times
from stepaudio.models.token2wav.flow_checkpoint import load_flow
from stepaudio.models.token2wav.flow_reference import ReferenceMelDecoder
from stepaudio.models.token2wav.flow_yaml import public_flow_config

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def flow(vectors: Path) -> Flow:
    parts = json.loads((vectors / "flow_config.json").read_text())
    decoder = parts["decoder"] | {"estimator": parts["estimator"]}
    config = {"flow": parts["flow"] | {"encoder": parts["encoder"], "decoder": decoder}}
    return load_flow(vectors / "flow.safetensors", public_flow_config(config))


@pytest.fixture(scope="module")
def offline(vectors: Path) -> dict[str, Tensor]:
    return load_file(vectors / "flow_offline.safetensors")


@pytest.fixture(scope="module")
def streamed(vectors: Path) -> dict[str, Tensor]:
    return load_file(vectors / "flow_stream.safetensors")


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max())


def decoder(flow: Flow, vectors: dict[str, Tensor]) -> ReferenceMelDecoder:
    def given(
        _seeds: Sequence[int], starts: Sequence[int], shape: tuple[int, int], _device: object
    ) -> Tensor:
        return vectors["noise"][:, :, starts[0] : starts[0] + shape[1]]

    return ReferenceMelDecoder(flow, given)


def voice(vectors: dict[str, Tensor]) -> VoicePrompt:
    return VoicePrompt(vectors["prompt_token"][0], vectors["prompt_mel"][0].T, vectors["spk"][0])


@torch.no_grad()
def test_encoder(flow: Flow, offline: dict[str, Tensor]) -> None:
    tokens = torch.cat([offline["prompt_token"], offline["token"]], dim=1).long()
    assert error(flow.input_embedding(tokens), offline["token_emb"]) == 0
    size = tokens.shape[1]
    views = (full_view(size, 0, flow.device), full_view(2 * size, 0, flow.device))
    valid = torch.tensor([size])
    padded = F.pad(tokens, (0, 3), value=7)  # what stands behind the end must not matter
    past = flow.encoder.empty_past(1)
    hidden, _ = flow.encoder(flow.input_embedding(padded), valid, past, views)
    assert error(hidden, offline["encoder_out"]) < TOLERANCE
    mu, _ = flow.encode(padded, valid, past, views)
    assert error(mu.mT, offline["mu"]) < TOLERANCE
    assert error(flow.speaker(offline["spk"]), offline["spk_proj"]) < TOLERANCE


@torch.no_grad()
def test_one_estimate(flow: Flow, offline: dict[str, Tensor]) -> None:
    estimator = flow.decoder.estimator
    assert error(estimator.t_embedder(offline["est_t"]), offline["est_t_emb"]) < TOLERANCE
    condition = Condition(offline["est_mu"], offline["est_spk"], offline["est_cond"])
    velocity, _ = estimator(offline["est_x"], condition, offline["est_t"], estimator.empty_past(2))
    assert error(velocity, offline["est_out"]) < TOLERANCE


def test_euler_times(flow: Flow, offline: dict[str, Tensor]) -> None:
    assert error(torch.tensor(euler_times(flow.config.sampler)), offline["t_span"]) < 1e-6


def test_offline_mel(flow: Flow, offline: dict[str, Tensor]) -> None:
    decode = decoder(flow, offline)
    mel = decode.generate(offline["token"][0], decode.prepare(voice(offline)))
    assert error(mel, offline["mel"][0]) < TOLERANCE


@pytest.mark.parametrize("at_once", [True, False])
def test_streamed_mel(flow: Flow, streamed: dict[str, Tensor], at_once: bool) -> None:
    decode = decoder(flow, streamed)
    state = decode.init_state(decode.prepare(voice(streamed)))
    tails = torch.cat([state.encoder.lookahead, state.encoder.upsample], dim=-1)
    assert error(tails, streamed["cache0_conformer_cnn"]) < TOLERANCE
    num_chunks = int(streamed["n_chunks"])
    # Chunks overlap by the three tokens that each looks ahead.
    news = [streamed[f"chunk{i}_token"][0][3 if i else 0 :] for i in range(num_chunks)]
    expected = [streamed[f"chunk{i}_mel"][0] for i in range(num_chunks)]
    if at_once:
        [mel], _ = decode.step([torch.cat(news)], [state], [True])
        assert error(mel, torch.cat(expected, dim=-1)) < TOLERANCE
        return
    for i, (new, mel) in enumerate(zip(news, expected, strict=True)):
        [ours], [state] = decode.step([new], [state], [i == num_chunks - 1])
        assert error(ours, mel) < TOLERANCE
        assert state.encoder.frames[0].length == int(streamed[f"chunk{i}_conf_att_len"])
        kept = state.estimator[-1].parts[0].length
        assert kept == int(streamed[f"chunk{i}_est_att_len"])
