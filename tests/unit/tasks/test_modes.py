"""Variant and modes are properties of a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from stepaudio.catalog import embedded_folder
from stepaudio.errors import ConfigError
from stepaudio.models.config_file import read_config
from stepaudio.tasks.instructions import translation_prompt
from stepaudio.tasks.modes import (
    DEFAULTS,
    VARIANT_MODES,
    checked_variant,
    modes_of,
    require_mode,
    variant_of,
)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("stepfun-ai/Step-Audio-2-mini", "instruct"),
        ("stepfun-ai/Step-Audio-2-mini-Base", "base"),
        ("models/Step-Audio-2-mini-Think", "think"),
        ("x/models--stepfun-ai--Step-Audio-2-mini-Base/snapshots/0a1b", "base"),
        ("/data/base/step-audio-2-mini", "instruct"),
        ("database", "instruct"),
        ("nano", "instruct"),
    ],
)
def test_variant_is_in_the_name(name: str, variant: str) -> None:
    assert variant_of(name) == variant


def nano_config(**changes: Any) -> Any:
    folder = embedded_folder("nano")
    assert folder is not None
    config = read_config(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def test_what_is_given_goes_before_configuration_and_name() -> None:
    config = nano_config(variant="think")
    assert checked_variant(config, "x-Base") == "think"
    assert checked_variant(config, "x-Base", "instruct") == "instruct"
    assert checked_variant(nano_config(), "x-Base") == "base"
    with pytest.raises(ConfigError, match="'chat'; known are instruct, base, think"):
        checked_variant(config, "x", "chat")


def test_nano_says_what_it_can() -> None:
    modes = modes_of(nano_config(), "instruct")
    assert set(modes) == {"asr", "chat", "voice_chat", "tools", "tts"}
    with pytest.raises(ConfigError, match="nano has no mode 'caption'; it has asr, chat"):
        require_mode("caption", modes, "nano")


def test_absent_modes_are_those_of_the_variant() -> None:
    for variant, modes in VARIANT_MODES.items():
        assert modes_of(nano_config(modes=None), variant) == modes
        assert set(modes) <= set(DEFAULTS)
    with pytest.raises(ConfigError, match="unknown modes"):
        modes_of(nano_config(modes=["sing"]), "instruct")


def test_configuration_keeps_variant_and_modes() -> None:
    values = nano_config(variant="base").to_dict()
    assert values["modes"] == nano_config().modes
    assert values["variant"] == "base"
    assert not {"modes", "variant"} & set(nano_config(modes=None).to_dict())


def test_translation_into_another_language() -> None:
    chinese = "请仔细聆听这段语音，然后将其内容翻译成中文。"
    assert translation_prompt(chinese, None) == chinese
    assert translation_prompt(chinese, "ja") == "请仔细聆听这段语音，然后将其内容翻译成日文。"
    assert translation_prompt("translate its content into Chinese.", "en").endswith("English.")
    with pytest.raises(ConfigError, match="names no language"):
        translation_prompt("Translate.", "en")
