from typing import Any

import pytest

from stepaudio.errors import ConfigError
from stepaudio.models.speech_config import SpeechConfig


def test_what_a_file_says_comes_back() -> None:
    values = {"reading": "phones", "given_text": True, "adapter": "tts", "voices": ["kathleen"],
              "styles": {"slowly": 1.3}, "seconds_a_phone": 0.1}  # fmt: skip
    config = SpeechConfig.of(values)
    assert config.voices == ("kathleen",)
    assert config.to_dict() == values
    assert SpeechConfig.of(config) is config


def test_public_checkpoints_have_no_section() -> None:
    assert SpeechConfig.of(None) == SpeechConfig()
    assert SpeechConfig().to_dict() == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "speech is no object"),
        ({"speed": 2}, "unknown fields"),
        ({"reading": "letters"}, "reading must be"),
        ({"given_text": "yes"}, "given_text must be"),
        ({"adapter": None}, "adapter must be"),
        ({"voices": [1]}, "voices must be"),
        ({"voices": "kathleen"}, "voices must be"),
        ({"styles": ["slowly"]}, "styles must be"),
        ({"styles": {"slowly": 0}}, "styles must be"),
        ({"temperature": -1}, "temperature must be"),
        ({"max_letters": 0}, "max_letters must be"),
        ({"max_letters": 7.5}, "max_letters must be"),
        ({"seconds_a_phone": 0}, "seconds_a_phone must be"),
        ({"seconds_a_phone": float("nan")}, "seconds_a_phone must be"),
        ({"pause_s": "1"}, "pause_s must be"),
    ],
)
def test_wrong_sections(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeechConfig.of(values)
