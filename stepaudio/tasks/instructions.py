"""How task instructions are completed or changed for a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from stepaudio.errors import ConfigError

ANSWER_FORMAT = "Output the final answer in <RESPONSE> </RESPONSE>."
Target = Literal["zh", "en", "ja"]
# Names of a language in Chinese and in English instructions.
_NAMES: Mapping[Target, tuple[str, str]] = {
    "zh": ("中文", "Chinese"),
    "en": ("英文", "English"),
    "ja": ("日文", "Japanese"),
}


def translation_prompt(instruction: str, target: Target | None) -> str:
    """The instruction of a translation, for another language than the one that it names.

    Args:
        instruction: a checkpoint's instruction, in Chinese or English.
        target: wanted language; None: as it stands.

    Raises:
        ConfigError: the instruction names no language that could be changed.
    """
    if target is None:
        return instruction
    for position in (0, 1):
        for names in _NAMES.values():
            if names[position] in instruction:
                return instruction.replace(names[position], _NAMES[target][position])
    raise ConfigError(
        f"the checkpoint's prompt {instruction!r} names no language that could be changed to "
        f"{target}"
    )
