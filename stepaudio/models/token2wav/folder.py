"""Folders of the detokenizer: the public layout and ours, both loaded strictly.

The public ``token2wav`` folder has ``flow.yaml``, ``flow.pt``, ``hift.pt``,
``speech_tokenizer_v2_25hz.onnx`` and ``campplus.onnx`` (specification, section 10). Ours has
``token2wav.json`` with the configuration of every part, and their weights as safetensors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.catalog import embedded_folder
from stepaudio.errors import CheckpointError, ConfigError, OutputError
from stepaudio.models.checkpoint import weight_files
from stepaudio.models.hub import SPEECH_FILES, checkpoint_folder
from stepaudio.models.token2wav.flow import Flow
from stepaudio.models.token2wav.flow_checkpoint import load_flow
from stepaudio.models.token2wav.flow_config import FlowConfig
from stepaudio.models.token2wav.flow_yaml import read_flow_yaml
from stepaudio.models.token2wav.hift import HiftVocoder
from stepaudio.models.token2wav.hift_config import HiftConfig
from stepaudio.models.token2wav.istft_vocoder import IstftVocoder
from stepaudio.models.token2wav.s3_onnx import OnnxS3Tokenizer
from stepaudio.models.token2wav.s3_tokenizer import S3Config
from stepaudio.models.token2wav.shared_tokenizer import SharedTokenizerConfig
from stepaudio.models.token2wav.source_filter_vocoder import SourceFilterVocoder
from stepaudio.models.token2wav.speaker import (
    OnnxSpeakerEncoder,
    SpeakerConfig,
    SpeakerNetwork,
    load_speaker_network,
)
from stepaudio.models.token2wav.tokenizer_checkpoint import (
    TrainedTokenizer,
    load_tokenizer,
    read_tokenizer_config,
    stored_tensors,
    write_tokenizer_config,
)
from stepaudio.models.token2wav.vocoder import Vocoder
from stepaudio.models.token2wav.vocoder_checkpoint import (
    load_vocoder,
    read_vocoder_config,
    write_vocoder_config,
)
from stepaudio.models.token2wav.voice import VoiceEncoders, fingerprint_of

SUBFOLDER = "token2wav"
CONFIG_FILE = "token2wav.json"
FORMAT_VERSION = 1
PUBLIC_CONFIG = "flow.yaml"
_PUBLIC_TOKENIZER = "speech_tokenizer_v2_25hz.onnx"
_PUBLIC_SPEAKER = "campplus.onnx"
_FLOW, _VOCODER = "flow.safetensors", "vocoder.safetensors"
_TOKENIZER, _SPEAKER = "speech_tokenizer.safetensors", "speaker.safetensors"


@dataclass(frozen=True)
class Token2WavParts:
    """Everything that a folder holds, ready to run."""

    flow: Flow
    vocoder: Vocoder[Any]
    encoders: VoiceEncoders


@dataclass(frozen=True)
class TrainedParts:
    """Modules that `save_parts` writes.

    Attributes:
        flow: tokens to mel.
        vocoder: mel to sound, with or without weight norm.
        tokenizer: speech to tokens.
        speaker: speech to a speaker embedding.
        mel: the mel between flow and vocoder.
    """

    flow: Flow
    vocoder: HiftVocoder | IstftVocoder | SourceFilterVocoder
    tokenizer: TrainedTokenizer
    speaker: SpeakerNetwork
    mel: VoiceMel


def token2wav_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """Find the folder of the detokenizer.

    Args:
        source: that folder, the folder of a checkpoint that has it, a model's name, or the id of
            a Hub repository.
        revision: branch, tag or commit of a repository.

    Raises:
        CheckpointError: there is none.
    """
    folder = embedded_folder(str(source)) or checkpoint_folder(
        source, revision=revision, files=SPEECH_FILES
    )
    for candidate in (folder, folder / SUBFOLDER):
        if any((candidate / name).is_file() for name in (CONFIG_FILE, PUBLIC_CONFIG)):
            return candidate
    raise CheckpointError(
        f"{source}: this checkpoint cannot speak: there is no folder {SUBFOLDER} with "
        f"{PUBLIC_CONFIG} or {CONFIG_FILE} in {folder}"
    )


def load_parts(folder: str | Path, *, device: torch.device | str = "cpu") -> Token2WavParts:
    """Load a folder of either layout. Tokenizer and speaker encoder stay on the CPU.

    Raises:
        CheckpointError: files are missing or damaged, or their tensors do not fit.
        ConfigError: a configuration is incomplete or contradictory.
    """
    folder = Path(folder)
    public = not (folder / CONFIG_FILE).is_file()
    parts = _load_public(folder, device) if public else _load_ours(folder, device)
    flow, mel = parts.flow.config, parts.encoders.mel
    facts = {
        "mel bands": (flow.output_size, parts.vocoder.num_mels, mel.num_mels),
        "samples between frames": (parts.vocoder.hop_length, mel.hop),
        "sample rate": (parts.vocoder.sample_rate, mel.sample_rate),
        "audio tokens": (flow.vocab_size, parts.encoders.tokenizer.codebook_size),
        "speaker embedding": (flow.spk_embed_dim, parts.encoders.speaker.embedding_size),
        "frames a second": (
            mel.sample_rate / mel.hop,
            parts.encoders.tokenizer.token_rate * flow.frames_per_token,
        ),
    }
    for name, values in facts.items():
        if len(set(values)) > 1:
            raise ConfigError(f"{folder}: {name} of the parts differ: {sorted(set(values))}")
    return parts


def _load_public(folder: Path, device: torch.device | str) -> Token2WavParts:
    config = read_flow_yaml(folder / PUBLIC_CONFIG)
    encoders = VoiceEncoders(
        tokenizer=OnnxS3Tokenizer(folder / _PUBLIC_TOKENIZER),
        speaker=OnnxSpeakerEncoder(folder / _PUBLIC_SPEAKER),
        mel=VoiceMel(),
        frames_per_token=config.frames_per_token,
        fingerprint=fingerprint_of([folder / _PUBLIC_TOKENIZER, folder / _PUBLIC_SPEAKER]),
    )
    flow = load_flow(folder / "flow.pt", config, device=device)
    vocoder = load_vocoder(folder / "hift.pt", HiftConfig(), device=device)
    return Token2WavParts(flow, vocoder, encoders)


def _load_ours(folder: Path, device: torch.device | str) -> Token2WavParts:
    path = folder / CONFIG_FILE
    values = _read_config(path)
    try:
        config = FlowConfig.from_dict(values["flow"])
        tokenizer_config = read_tokenizer_config(values["tokenizer"], folder.parent)
        speaker_config = SpeakerConfig.from_dict(values["speaker"])
        vocoder_config = read_vocoder_config(values["vocoder"])
        mel = _voice_mel(values["mel"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    encoders = VoiceEncoders(
        tokenizer=load_tokenizer(folder / _TOKENIZER, tokenizer_config, folder.parent),
        speaker=load_speaker_network(folder / _SPEAKER, speaker_config),
        mel=mel,
        frames_per_token=config.frames_per_token,
        fingerprint=fingerprint_of(_voice_files(folder, tokenizer_config)),
    )
    flow = load_flow(folder / _FLOW, config, device=device)
    vocoder = load_vocoder(folder / _VOCODER, vocoder_config, device=device)
    return Token2WavParts(flow, vocoder, encoders)


def _voice_files(folder: Path, config: S3Config | SharedTokenizerConfig) -> list[Path]:
    """Every file of weights that a voice prompt depends on."""
    files = [folder / _TOKENIZER, folder / _SPEAKER]
    if isinstance(config, SharedTokenizerConfig):
        files += weight_files(folder.parent)
    return files


def save_parts(folder: str | Path, parts: TrainedParts) -> None:
    """Write a folder of our layout, made if needed; the configuration comes last.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{folder}: cannot be made: {reason}") from error
    modules = {
        _FLOW: parts.flow.state_dict(),
        _VOCODER: parts.vocoder.state_dict(),
        _TOKENIZER: stored_tensors(parts.tokenizer),
        _SPEAKER: parts.speaker.state_dict(),
    }
    for name, state in modules.items():
        tensors = {key: _stored(tensor) for key, tensor in state.items()}
        write_bytes_atomic(folder / name, safetensors.torch.save(tensors, {"format": "pt"}))
    values = {
        "format_version": FORMAT_VERSION,
        "flow": parts.flow.config.to_dict(),
        "vocoder": write_vocoder_config(parts.vocoder.config),
        "tokenizer": write_tokenizer_config(parts.tokenizer.config),
        "speaker": parts.speaker.config.to_dict(),
        "mel": dataclasses.asdict(parts.mel),
    }
    write_text_atomic(folder / CONFIG_FILE, json.dumps(values, indent=2) + "\n")


def _stored(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; download it again") from error
    sections = ("flow", "vocoder", "tokenizer", "speaker", "mel")
    if not isinstance(values, dict) or not all(isinstance(values.get(s), dict) for s in sections):
        raise ConfigError(f"{path}: must have the sections {', '.join(sections)}")
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written in format {version}, but this version of stepaudio reads formats up "
            f"to {FORMAT_VERSION}: install a newer one"
        )
    return values


def _voice_mel(values: Mapping[str, Any]) -> VoiceMel:
    unknown = set(values) - {field.name for field in dataclasses.fields(VoiceMel)}
    if unknown:
        raise ConfigError(f"mel: unknown fields {sorted(unknown)}")
    for name, value in values.items():
        kinds = (int, float) if name == "highest_hz" else (int,)
        if type(value) not in kinds or value <= 0:
            raise ConfigError(f"mel: {name} must be a positive number, got {value!r}")
    return VoiceMel(**values)
