"""Audio encoder: parity with the reference, streaming equal to offline, padding invariance."""

import json

import pytest
import torch
from safetensors.torch import load_file

from stepaudio.errors import ConfigError
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.encoder import (
    AudioEncoder,
    ChunkMask,
    CTCHead,
    build_adaptor,
    length_mask,
)

NANO = {
    "n_mels": 80, "n_audio_ctx": 0, "n_audio_state": 32, "n_audio_head": 4, "n_audio_layer": 3,
    "llm_dim": 16, "kernel_size": 1, "adapter_stride": 1, "chunk_frames": 32, "left_context": 64,
    "mel_floor": "fixed", "conv_strides": (2, 2), "pool_layer": 1, "conv_kernel": 5,
    "position": "rotary", "adapter_type": "linear", "ctc_tokens": " ab", "ctc_upsample": 2,
}  # fmt: skip


@pytest.fixture
def nano():
    torch.manual_seed(0)
    return AudioEncoder(AudioEncoderConfig(**NANO)).eval()


@pytest.mark.parametrize("name", ["main_single", "main_batch"])
def test_encoder_and_adaptor_equal_the_reference(vectors, name):
    config = json.loads((vectors / "config.json").read_text())["audio_encoder_config"]
    config = AudioEncoderConfig.from_dict(config)
    weights = load_file(vectors / "model.safetensors")
    encoder, adaptor = AudioEncoder(config), build_adaptor(config)
    for prefix, module in (("encoder.", encoder), ("adapter.", adaptor)):
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        )
    expected = load_file(vectors / f"{name}.safetensors")
    with torch.no_grad():
        encoded = encoder(expected["mel"], expected["mel_len"])
        adapted = adaptor(encoded)
    assert torch.equal(encoded.lengths.int(), expected["encoder_len"])
    assert (encoded.values - expected["encoder_out"]).abs().max() < 1e-4
    assert (adapted.values - expected["adapter_out"]).abs().max() < 1e-4


@pytest.mark.parametrize("num_frames", [32, 7 * 32, 7 * 32 + 9, 31])
def test_stream_equals_offline_under_the_same_mask(nano, num_frames):
    mel = torch.randn(2, 80, num_frames)
    lens = torch.full((2,), num_frames)
    with torch.no_grad():
        offline = nano(mel, lens, ChunkMask(32, 64))
        state, streamed = nano.init_state(2), []
        for start in range(0, num_frames, 32):
            latents, state = nano.step(mel[..., start : start + 32], state)
            streamed.append(latents.values)
    assert (torch.cat(streamed, 1) - offline.values).abs().max() < 1e-5


def test_slots_are_independent_and_idle_ones_keep_their_state(nano):
    mel = torch.randn(1, 80, 96)
    with torch.no_grad():
        offline = nano(mel, torch.tensor([96]), ChunkMask(32, 64)).values[0]
        state, mine = nano.init_state(2), []
        for chunk in mel.split(32, dim=-1):
            noise = torch.randn(1, 80, 32)
            _, state = nano.step(torch.cat([noise, noise]), state, torch.tensor([True, False]))
            latents, state = nano.step(
                torch.cat([noise, chunk]), state, torch.tensor([False, True])
            )
            assert latents.lengths.tolist() == [0, 4]
            mine.append(latents.values[1])
    assert (torch.cat(mine) - offline).abs().max() < 1e-5


def test_short_last_chunk_in_a_batch(nano):
    mel = torch.randn(2, 80, 64)
    mel[1, :, 48:] = 0
    with torch.no_grad():
        offline = nano(mel[1:, :, :48], torch.tensor([48]), ChunkMask(32, 64)).values[0]
        _, state = nano.step(mel[..., :32], nano.init_state(2))
        latents, _ = nano.step(mel[..., 32:], state, mel_lens=torch.tensor([32, 16]))
    assert latents.lengths.tolist() == [4, 2]
    assert (latents.values[1, :2] - offline[4:]).abs().max() < 1e-5


def test_padding_does_not_change_the_causal_encoder(nano):
    mel = torch.randn(2, 80, 160)
    lens = torch.tensor([160, 77])
    with torch.no_grad():
        batch = nano(mel, lens)
        alone = nano(mel[1:, :, :77], lens[1:])
    valid = int(alone.lengths[0])
    assert batch.lengths.tolist() == [20, valid]
    assert (batch.values[1, :valid] - alone.values[0]).abs().max() < 1e-5


def test_full_attention_equals_one_large_chunk(nano):
    mel, lens = torch.randn(1, 80, 128), torch.tensor([128])
    with torch.no_grad():
        assert torch.allclose(
            nano(mel, lens).values, nano(mel, lens, ChunkMask(128, None)).values, atol=1e-6
        )


def test_gradient_checkpointing_gives_the_same_gradients(nano):
    mel, lens = torch.randn(1, 80, 64), torch.tensor([64])
    gradients = []
    for flag in (False, True):
        nano.train()
        nano.gradient_checkpointing = flag
        nano.zero_grad()
        nano(mel, lens).values.square().sum().backward()
        gradients.append(nano.conv1.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6)


def test_ctc_head_spreads_frames(nano):
    head = CTCHead(nano.config, len(nano.config.ctc_tokens))
    latents = nano(torch.randn(1, 80, 80), torch.tensor([80]))
    posteriors = head(latents)
    assert posteriors.values.shape == (1, 20, 4)
    assert posteriors.lengths.tolist() == [20]
    assert torch.allclose(posteriors.values.exp().sum(-1), torch.ones(1, 20), atol=1e-5)


def test_bidirectional_encoder_refuses_to_stream():
    public = {k: NANO[k] for k in ("n_mels", "n_audio_state", "n_audio_head", "n_audio_layer")}
    config = AudioEncoderConfig(
        **public, n_audio_ctx=100, llm_dim=16, kernel_size=3, adapter_stride=2
    )
    with pytest.raises(ValueError, match="cutting pieces"):
        AudioEncoder(config).init_state(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_frames": 12}, "multiple of 8"),
        ({"position": "table"}, "rotary"),
        ({"chunk_frames": None, "left_context": None}, "set chunk_frames"),
        ({"n_audio_head": 5}, "multiple of n_audio_head"),
    ],
)
def test_contradictory_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        AudioEncoderConfig(**{**NANO, **change})


def test_configuration_round_trip_and_strictness():
    config = AudioEncoderConfig(**NANO)
    assert AudioEncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="n_melz"):
        AudioEncoderConfig.from_dict({**config.to_dict(), "n_melz": 1})
    with pytest.raises(ConfigError, match="missing fields \\['n_mels'\\]"):
        AudioEncoderConfig.from_dict({k: v for k, v in NANO.items() if k != "n_mels"})


def test_length_mask():
    assert length_mask(torch.tensor([0, 2]), 3).tolist() == [[False] * 3, [True, True, False]]
