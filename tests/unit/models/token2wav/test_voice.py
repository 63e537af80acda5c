"""Voice prompts: any recording to features, refusals, and what is kept of them."""

import dataclasses
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.catalog import find_voice, list_voices
from stepaudio.errors import AudioLoadError, VoiceError
from stepaudio.models.token2wav.flow import VoicePrompt
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer
from stepaudio.models.token2wav.speaker import SpeakerConfig, SpeakerNetwork
from stepaudio.models.token2wav.voice import (
    VoiceEncoders,
    VoiceLimits,
    VoicePreparer,
    default_cache_folder,
    fingerprint_of,
    fit_frames,
)


class CountingTokenizer(S3Tokenizer):
    """Counts what it is asked."""

    calls = 0

    def tokenize(self, wav: Tensor) -> Tensor:
        self.calls += 1
        return super().tokenize(wav)


@pytest.fixture
def encoders() -> VoiceEncoders:
    config = S3Config(
        n_mels=8, n_audio_state=8, n_audio_head=2, n_audio_layer=1, codebook_levels=(3, 3)
    )
    speaker = SpeakerConfig(num_bins=20, channels=4, kernels=(3,), dilations=(1,), embedding_size=6)
    return VoiceEncoders(
        tokenizer=CountingTokenizer(config).eval(),
        speaker=SpeakerNetwork(speaker).eval(),
        mel=VoiceMel(),
        frames_per_token=2,
        fingerprint="a",
    )


def calls(encoders: VoiceEncoders) -> int:
    assert isinstance(encoders.tokenizer, CountingTokenizer)
    return encoders.tokenizer.calls


def tone(seconds: float, rate: int = 16_000, channels: int = 1, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    wave = level * np.sin(2 * np.pi * 220 * time)
    return np.stack([wave / (channel + 1) for channel in range(channels)], axis=1)


def encoded(samples: np.ndarray, rate: int = 16_000, subtype: str = "FLOAT") -> bytes:
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format="WAV", subtype=subtype)
    return target.getvalue()


def equal(first: VoicePrompt, second: VoicePrompt) -> bool:
    fields = dataclasses.fields(VoicePrompt)
    return all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields)


# ---- recordings --------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_recording(encoders: VoiceEncoders, rate: int, channels: int) -> None:
    prompt = VoicePreparer(encoders).prepare(encoded(tone(1.5, rate, channels), rate))
    assert len(prompt.tokens) in (37, 38)
    assert prompt.mel.shape == (80, 2 * len(prompt.tokens))
    assert prompt.speaker.shape == (6,)
    assert all(getattr(prompt, f.name).isfinite().all() for f in dataclasses.fields(prompt))


def test_path_bytes_and_file_objects_are_alike(encoders: VoiceEncoders, tmp_path: Path) -> None:
    data = encoded(tone(2))
    path = tmp_path / "voice.wav"
    path.write_bytes(data)
    preparer = VoicePreparer(encoders)
    prompts = [preparer.prepare(source) for source in (path, str(path), data, io.BytesIO(data))]
    assert all(equal(prompt, prompts[0]) for prompt in prompts)
    assert calls(encoders) == 1


def test_channels(encoders: VoiceEncoders) -> None:
    both = np.concatenate([tone(2), 0.1 * np.random.default_rng(0).normal(size=(32_000, 1))], 1)
    prompt = VoicePreparer(encoders).prepare(encoded(both))
    first = VoicePreparer(encoders).prepare(encoded(both[:, 0]))
    mixed = VoicePreparer(encoders).prepare(encoded(both.mean(axis=1)))
    assert torch.equal(prompt.tokens, first.tokens)
    assert torch.equal(prompt.speaker, first.speaker)
    assert torch.allclose(prompt.mel, mixed.mel, atol=1e-3)
    assert not torch.allclose(prompt.mel, first.mel, atol=0.1)


def test_long_recordings_are_cut(encoders: VoiceEncoders, caplog: pytest.LogCaptureFixture) -> None:
    samples = np.concatenate([tone(3), tone(2, level=0.05)])
    limits = VoiceLimits(longest_s=3)
    with caplog.at_level(logging.WARNING):
        prompt = VoicePreparer(encoders, limits=limits).prepare(encoded(samples), name="talk")
    assert "talk: lasts 5.0 s; only its first 3 s are used" in caplog.text
    assert equal(prompt, VoicePreparer(encoders).prepare(encoded(samples[:48_000])))


def test_some_clipping_is_a_warning(
    encoders: VoiceEncoders, caplog: pytest.LogCaptureFixture
) -> None:
    samples = tone(2)
    samples[:100] = 1.0
    with caplog.at_level(logging.WARNING):
        VoicePreparer(encoders).prepare(encoded(samples), name="loud")
    assert "loud: 0.3 % of its samples are clipped" in caplog.text


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (tone(0.99), 16_000, "lasts 0.99 s, but a voice needs at least 1 s"),
        (tone(2, level=1e-4), 16_000, "silent"),
        (np.zeros((32_000, 1)), 16_000, "silent"),
        (np.full((32_000, 1), 0.5), 16_000, "silent"),
        (np.clip(tone(2, level=3), -1, 1), 16_000, "78% of its samples are clipped"),
        (tone(2, 6000), 6_000, "6000 Hz is outside of 8000 to 96000 Hz"),
        (tone(2, 192_000), 192_000, "192000 Hz is outside"),
    ],
)
def test_refusals(encoders: VoiceEncoders, samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(VoiceError, match=f"^mine: .*{message}"):
        VoicePreparer(encoders).prepare(encoded(samples, rate), name="mine")
    assert calls(encoders) == 0


def test_unreadable_sources(encoders: VoiceEncoders, tmp_path: Path) -> None:
    preparer = VoicePreparer(encoders)
    for source in (tmp_path / "absent.wav", tmp_path, b"nonsense", b""):
        with pytest.raises(AudioLoadError):
            preparer.prepare(source)


def test_mel_is_cut_or_prolonged() -> None:
    mel = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(fit_frames(mel, 2), mel[:, :2])
    assert torch.equal(fit_frames(mel, 3), mel)
    assert fit_frames(mel, 5)[0].tolist() == [0, 1, 2, 2, 2]


# ---- cache -------------------------------------------------------------------------------------


@pytest.fixture
def recording() -> Iterator[bytes]:
    yield encoded(tone(2))


def test_voices_are_kept_on_disk(encoders: VoiceEncoders, tmp_path: Path, recording: bytes) -> None:
    folder = tmp_path / "a" / "voices"
    first = VoicePreparer(encoders, cache_folder=folder).prepare(recording)
    again = VoicePreparer(encoders, cache_folder=folder).prepare(recording)
    assert equal(first, again)
    assert calls(encoders) == 1
    [kept] = folder.iterdir()
    assert kept.suffix == ".safetensors"


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": "b"}, {"frames_per_token": 3}, {"mel": VoiceMel(num_mels=40)}],
)
def test_other_encoders_have_other_prompts(
    encoders: VoiceEncoders, tmp_path: Path, recording: bytes, change: dict[str, object]
) -> None:
    VoicePreparer(encoders, cache_folder=tmp_path).prepare(recording)
    other = dataclasses.replace(encoders, **change)
    VoicePreparer(other, cache_folder=tmp_path).prepare(recording)
    assert calls(encoders) == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_files_are_replaced(
    encoders: VoiceEncoders, tmp_path: Path, recording: bytes, content: bytes
) -> None:
    first = VoicePreparer(encoders, cache_folder=tmp_path).prepare(recording)
    [kept] = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(content)
    assert equal(VoicePreparer(encoders, cache_folder=tmp_path).prepare(recording), first)
    assert kept.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_error(
    encoders: VoiceEncoders, tmp_path: Path, recording: bytes
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    prompt = VoicePreparer(encoders, cache_folder=blocked / "voices").prepare(recording)
    assert len(prompt.tokens) == 50


def test_memory_holds_the_latest_voices(encoders: VoiceEncoders) -> None:
    preparer = VoicePreparer(encoders)
    recordings = [encoded(tone(1, level=0.1 + 0.02 * n)) for n in range(17)]
    for recording in recordings:
        preparer.prepare(recording)
    preparer.prepare(recordings[-1])
    assert calls(encoders) == 17
    preparer.prepare(recordings[0])
    assert calls(encoders) == 18


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "stepaudio" / "voices"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "stepaudio" / "voices"


def test_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    both = fingerprint_of([tmp_path / "a", tmp_path / "b"])
    assert both != fingerprint_of([tmp_path / "b", tmp_path / "a"])
    assert both == fingerprint_of([tmp_path / "a", tmp_path / "b"])


# ---- voices of the package ---------------------------------------------------------------------


@pytest.mark.parametrize("name", list_voices())
def test_voices_of_the_package(
    encoders: VoiceEncoders, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prompt = VoicePreparer(encoders).prepare(find_voice(name))
    assert not caplog.records
    assert len(prompt.tokens) in range(150, 220)
    assert find_voice(name).stat().st_size < 150_000


def test_finding_voices(tmp_path: Path) -> None:
    assert find_voice(tmp_path) == tmp_path
    with pytest.raises(VoiceError, match=r"nobody: no such file.*kathleen"):
        find_voice("nobody")
