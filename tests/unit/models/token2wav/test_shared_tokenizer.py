"""The tokenizer on the recogniser's encoder: lengths, padding, gradients, storage."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.token2wav.shared_tokenizer import SharedTokenizer, SharedTokenizerConfig
from stepaudio.models.token2wav.tokenizer_checkpoint import (
    load_tokenizer,
    read_tokenizer_config,
    stored_tensors,
    write_tokenizer_config,
)

ENCODER = AudioEncoderConfig(
    n_mels=80, n_audio_ctx=0, n_audio_state=32, n_audio_head=2, n_audio_layer=2, llm_dim=16,
    kernel_size=1, adapter_stride=1, chunk_frames=64, left_context=128, mel_floor="fixed",
    conv_strides=(2, 2), pool_layer=1, conv_kernel=3, position="rotary", adapter_type="linear",
)  # fmt: skip
CONFIG = SharedTokenizerConfig(encoder=ENCODER, width=16, num_blocks=1, codebook_levels=(3, 3, 5))


@pytest.fixture(scope="module")
def tokenizer() -> SharedTokenizer:
    torch.manual_seed(1)
    return SharedTokenizer(CONFIG).eval()


@pytest.mark.parametrize("samples", [0, 1, 100, 640, 641, 1280, 16_000, 16_001, 20_479])
def test_one_code_for_every_started_forty_milliseconds(tokenizer, samples):
    wav = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1
    codes = tokenizer.tokenize(wav)
    assert codes.dtype == torch.int64
    assert len(codes) == -(-samples // 640)
    assert all(0 <= code < tokenizer.codebook_size == 45 for code in codes.tolist())


def test_a_long_recording_is_cut_and_joined(tokenizer):
    wav = torch.randn(16_000 * 61, generator=torch.Generator().manual_seed(0)) * 0.1
    codes = tokenizer.tokenize(wav)
    assert len(codes) == 61 * 25
    # What only the first window hears is what it says alone.
    alone = tokenizer.tokenize(wav[: 16_000 * 30])
    assert torch.equal(codes[:700], alone[:700])


def test_padding_changes_no_code(tokenizer):
    generator = torch.Generator().manual_seed(2)
    mels = [tokenizer.log_mel(torch.randn(n, generator=generator)) for n in (12_800, 6_400)]
    lens = torch.tensor([mel.shape[1] for mel in mels])
    batch = torch.zeros(2, 80, int(lens.max()))
    for row, mel in zip(batch, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    together, counts = tokenizer(batch, lens)
    assert counts.tolist() == [20, 10]
    for row, mel in enumerate(mels):
        alone, _ = tokenizer(mel[None], lens[row : row + 1])
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0])


def test_the_encoder_gets_no_gradient(tokenizer):
    mel = tokenizer.log_mel(torch.randn(6_400))
    values, _ = tokenizer(mel[None], torch.tensor([mel.shape[1]]))
    values.square().sum().backward()
    assert all(p.grad is None for p in tokenizer.encoder.parameters())
    own = {k: p for k, p in tokenizer.named_parameters() if not k.startswith("encoder.")}
    assert all(p.grad is not None for p in own.values())


def test_stored_without_the_encoder(tokenizer, tmp_path: Path):
    path = tmp_path / "speech_tokenizer.safetensors"
    tensors = stored_tensors(tokenizer)
    assert not any(name.startswith("encoder.") for name in tensors)
    safetensors.torch.save_file(tensors, path)
    encoder = {k: v for k, v in tokenizer.state_dict().items() if k.startswith("encoder.")}
    safetensors.torch.save_file(encoder, tmp_path / "model.safetensors")
    again = load_tokenizer(path, CONFIG, tmp_path)
    wav = torch.randn(8_000) * 0.1
    assert torch.equal(again.tokenize(wav), tokenizer.tokenize(wav))
    safetensors.torch.save_file({"lm_head.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="encoder"):
        load_tokenizer(path, CONFIG, tmp_path)


def test_the_configuration_names_its_kind():
    written = write_tokenizer_config(CONFIG)
    assert written["kind"] == "shared"
    assert "encoder" not in written
    with pytest.raises(ConfigError, match="kind"):
        read_tokenizer_config({"kind": "loud"}, ".")


def test_contradictory_configurations():
    public = AudioEncoderConfig(
        n_mels=80, n_audio_ctx=100, n_audio_state=32, n_audio_head=2, n_audio_layer=1, llm_dim=16,
        kernel_size=3, adapter_stride=2,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="stream"):
        dataclasses.replace(CONFIG, encoder=public)
    with pytest.raises(ConfigError, match="odd"):
        dataclasses.replace(CONFIG, kernel=4)
