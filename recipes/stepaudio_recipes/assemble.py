"""Join the parts of a speaking model, each from a run of its own, in one checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stepaudio.atomic import write_text_atomic
from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.catalog import embedded_folder
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.checkpoint import GENERATION_FILE
from stepaudio.models.config_file import read_config
from stepaudio.models.mtp_file import PREDICTOR_FILE
from stepaudio.models.token2wav.folder import SUBFOLDER, TrainedParts, load_parts, save_parts
from stepaudio.models.token2wav.tokenizer_checkpoint import load_tokenizer, read_tokenizer_config
from stepaudio.models.token2wav.vocoder_checkpoint import load_vocoder, read_vocoder_config
from stepaudio.text.word_model import WORDS_FILE
from stepaudio_recipes.token2wav import load_trained

_log = logging.getLogger(__name__)
_WORDS_LICENCE = "words.LICENSE"


@dataclass(frozen=True, kw_only=True)
class SectionsConfig:
    """Sections of ``config.json``: what the model can do, and how.

    Attributes:
        modes: tasks.
        prompts: task prompts that differ from those of the foundation.
        speech: see `stepaudio.models.speech_config`.
        dialogue: see `stepaudio.models.dialogue_config`.
    """

    modes: tuple[str, ...]
    prompts: dict = field(default_factory=dict)  # type: ignore[type-arg]
    speech: dict = field(default_factory=dict)  # type: ignore[type-arg]
    dialogue: dict = field(default_factory=dict)  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class AssembleConfig:
    """Settings of the recipe.

    Attributes:
        recipe: "assemble".
        output_dir: folder of the checkpoint.
        model: folder of ``speech_pretrain``'s model.
        words: name or folder of the model whose word list and prediction blocks are kept.
        codec: folder of ``codec``'s tokenizer.
        token2wav: folder of ``token2wav``'s flow and speaker encoder.
        vocoder: folder of ``vocoder``'s run.
        mel: fields of `VoiceMel` that differ from the public ones.
        sections: of ``config.json``.
    """

    recipe: Literal["assemble"]
    output_dir: str
    model: str
    codec: str
    token2wav: str
    vocoder: str
    sections: SectionsConfig
    words: str = "nano"
    mel: dict = field(default_factory=dict)  # type: ignore[type-arg]


Config = AssembleConfig


def main(config: AssembleConfig) -> Path:
    """Write the checkpoint; returns its folder.

    Raises:
        CheckpointError: a part is missing, damaged, or does not fit the others.
        ConfigError: a section of the configuration is wrong.
        OutputError: a file cannot be written.
    """
    folder = Path(config.output_dir)
    if not (Path(config.model) / "config.json").is_file():
        raise CheckpointError(f"{config.model}: no model; run the recipe speech_pretrain")
    shutil.copytree(config.model, folder, dirs_exist_ok=True)
    words = embedded_folder(config.words) or Path(config.words)
    for name in (WORDS_FILE, _WORDS_LICENCE, PREDICTOR_FILE):
        if (words / name).is_file():
            shutil.copyfile(words / name, folder / name)
    save_parts(folder / SUBFOLDER, trained_parts(config))
    load_parts(folder / SUBFOLDER)  # the parts fit each other
    write_sections(folder / "config.json", config.sections)
    keep_to_text(folder)
    _log.info("checkpoint written to %s", folder)
    return folder


def trained_parts(config: AssembleConfig) -> TrainedParts:
    """Load all parts of the detokenizer, in half precision.

    Raises:
        CheckpointError: a part is missing or damaged.
        ConfigError: a configuration is wrong.
    """
    codec, vocoder = Path(config.codec), Path(config.vocoder)
    flow, speaker = load_trained(config.token2wav)
    tokenizer = load_tokenizer(
        codec / "speech_tokenizer.safetensors",
        read_tokenizer_config(_read(codec / "config.json"), config.model),
        config.model,
    )
    vocoder_config = read_vocoder_config(_read(vocoder / "vocoder.json"))
    sound = load_vocoder(vocoder / "vocoder.safetensors", vocoder_config)
    modules: dict[str, Any] = {
        "flow": flow,
        "vocoder": sound,
        "tokenizer": tokenizer,
        "speaker": speaker,
    }
    halves = {name: module.half() for name, module in modules.items()}
    return TrainedParts(**halves, mel=VoiceMel(**config.mel))


def write_sections(path: Path, sections: SectionsConfig) -> None:
    """Put the sections into a ``config.json``."""
    values = _read(path)
    values["modes"] = list(sections.modes)
    values["prompts"] = {**values.get("prompts", {}), **sections.prompts}
    for name in ("speech", "dialogue"):
        section = getattr(sections, name)
        if section:
            values[name] = section
    write_text_atomic(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def keep_to_text(folder: Path) -> None:
    """Have transformers' `generate()` write no audio tokens.

    The foundation hears and its adapters speak: audio tokens of the foundation say nothing.
    """
    config = read_config(folder)
    path = folder / GENERATION_FILE
    values = _read(path) if path.exists() else {}
    no_text = range(config.audio_start_token_id, config.text_config.vocab_size)
    values["suppress_tokens"] = list(no_text)
    write_text_atomic(path, json.dumps(values, sort_keys=True) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return values
