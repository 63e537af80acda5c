"""Folders of the detokenizer, in our layout and in the public one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.catalog import find_voice
from stepaudio.errors import CheckpointError, ConfigError, OutputError
from stepaudio.models.token2wav.flow_yaml import read_flow_yaml
from stepaudio.models.token2wav.folder import load_parts, save_parts, token2wav_folder
from stepaudio.models.token2wav.hift import prepare_inference
from stepaudio.models.token2wav.token2wav import Token2Wav
from tests.unit.models.token2wav.parts import (
    PUBLIC_YAML,
    Kind,
    random_speaker,
    small_parts,
    write_public_folder,
)

CODES = [5, 3, 60, 2, 80, 17]


def engine_of(folder: Path) -> Token2Wav:
    return Token2Wav.from_pretrained(folder, device="cpu", cache_folder=folder / "voices")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    save_parts(tmp_path / "token2wav", small_parts())
    return tmp_path / "token2wav"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "token2wav"
    folder.mkdir()
    (folder / "flow.yaml").write_text(PUBLIC_YAML)
    write_public_folder(folder, read_flow_yaml(folder / "flow.yaml"))
    return folder


# ---- ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hift", "istft", "source_filter"])
@pytest.mark.parametrize("mode", ["exact", "reference"])
def test_what_is_saved_is_loaded(tmp_path: Path, kind: Kind, mode: str) -> None:
    parts = small_parts(kind, streaming={"mode": mode}, num_steps=1, cfg_rate=0.0)
    save_parts(tmp_path / "new" / "folder", parts)
    loaded = load_parts(tmp_path / "new" / "folder")
    assert loaded.flow.config == parts.flow.config
    assert not loaded.flow.training
    for name, tensor in parts.flow.state_dict().items():
        assert torch.equal(loaded.flow.state_dict()[name], tensor), name
    assert loaded.vocoder.config == parts.vocoder.config
    wav = torch.randn(16_000)
    assert torch.equal(loaded.encoders.tokenizer.tokenize(wav), parts.tokenizer.tokenize(wav))
    assert torch.equal(loaded.encoders.speaker.embed(wav), parts.speaker.embed(wav))
    assert loaded.encoders.mel == parts.mel


def test_a_vocoder_is_the_same_with_weight_norm_and_without(ours: Path, tmp_path: Path) -> None:
    voice = find_voice("kathleen")
    first = engine_of(ours)
    wav = first.synthesize(CODES, first.prepare_voice(voice))
    parts = small_parts()
    prepare_inference(parts.vocoder)
    save_parts(tmp_path / "plain", parts)
    second = engine_of(tmp_path / "plain")
    assert torch.allclose(wav, second.synthesize(CODES, second.prepare_voice(voice)), atol=1e-5)


def test_folder_of_the_checkpoint(ours: Path) -> None:
    assert token2wav_folder(ours) == token2wav_folder(ours.parent) == ours


def test_checkpoints_that_cannot_speak(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot speak: there is no folder token2wav"):
        token2wav_folder(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        token2wav_folder(tmp_path / "absent")


@pytest.mark.parametrize("name", ["flow", "vocoder", "speech_tokenizer", "speaker"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"nonsense")])
def test_missing_and_damaged_weights(
    ours: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(ours / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors"):
        load_parts(ours)


def change(folder: Path, section: str, **values: Any) -> None:
    path = folder / "token2wav.json"
    content = json.loads(path.read_text())
    content[section] |= values
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("flow", {"depth": 3}, "unknown fields"),
        ("flow", {"streaming": {"mode": "exactly"}}, "mode must be"),
        ("flow", {"sampler": {"num_steps": 0}}, "num_steps must be positive"),
        ("vocoder", {"kind": "wavenet"}, "kind of a vocoder"),
        ("tokenizer", {"fsmn_kernel": 4}, "odd"),
        ("speaker", {"channels": 0}, "positive"),
        ("mel", {"hops": 3}, "unknown fields"),
        ("mel", {"hop": 0}, "hop must be a positive number"),
        ("mel", {"hop": "160"}, "hop must be a positive number"),
    ],
)
def test_unusable_configurations(
    ours: Path, section: str, values: dict[str, Any], message: str
) -> None:
    change(ours, section, **values)
    with pytest.raises(ConfigError, match=rf"token2wav\.json: .*{message}"):
        load_parts(ours)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1, "flow": 3}', "\udcff"])
def test_unreadable_configurations(ours: Path, content: str) -> None:
    (ours / "token2wav.json").write_text(content, errors="surrogateescape")
    with pytest.raises((CheckpointError, ConfigError), match=r"token2wav\.json"):
        load_parts(ours)


@pytest.mark.parametrize("version", [2, "1", None])
def test_later_formats(ours: Path, version: object) -> None:
    path = ours / "token2wav.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    with pytest.raises(CheckpointError, match="install a newer one"):
        load_parts(ours)


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    parts = small_parts()
    others = {
        "speaker embedding of the parts differ: [5, 7]": {"speaker": random_speaker(20, 7)},
        "samples between frames": {"mel": dataclasses.replace(parts.mel, hop=80)},
        "mel bands": {"mel": dataclasses.replace(parts.mel, num_mels=7)},
        "sample rate": {"mel": dataclasses.replace(parts.mel, sample_rate=16_000)},
    }
    for message, values in others.items():
        save_parts(tmp_path, dataclasses.replace(parts, **values))
        with pytest.raises(ConfigError) as caught:
            load_parts(tmp_path)
        assert message in str(caught.value)


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        save_parts(tmp_path / "file" / "folder", small_parts())


# ---- public ------------------------------------------------------------------------------------


def test_public_folder_speaks(public: Path) -> None:
    engine = engine_of(public.parent)
    assert engine.mode == "reference"
    assert engine.sample_rate == 24_000
    assert engine.voices.encoders.mel == VoiceMel()
    voice = engine.prepare_voice(find_voice("kathleen"))
    codes = engine.tokenize(torch.randn(3200))
    assert len(codes) == 5
    offline = engine.synthesize(codes, voice)
    assert len(offline) == 5 * 960
    stream = engine.stream(voice)
    pieces = [stream.push(codes[:3]), stream.finish(codes[3:])]
    assert sum(map(len, pieces)) == len(offline)


def test_public_folder_in_exact_mode(public: Path) -> None:
    engine = Token2Wav.from_pretrained(public, device="cpu", mode="exact", cache_folder=public)
    voice, codes = engine.prepare_voice(find_voice("emodb03")), [6560, 0, 17, 4000, 3, 80, 2000]
    stream = engine.stream(voice)
    streamed = torch.cat([stream.push(codes[:4]), stream.finish(codes[4:])])
    assert (streamed - engine.synthesize(codes, voice)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "name",
    ["flow.yaml", "flow.pt", "hift.pt", "speech_tokenizer_v2_25hz.onnx", "campplus.onnx"],
)
def test_public_files_that_are_damaged(public: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "token2wav"
    folder.mkdir()
    for path in public.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_parts(folder)
    (folder / name).write_bytes(b"\x01nonsense: [")
    with pytest.raises((CheckpointError, ConfigError), match=name):
        load_parts(folder)
    shutil.rmtree(folder)
