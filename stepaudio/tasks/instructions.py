"""How task instructions are completed or changed for a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from stepaudio.conversation import ChatTemplate, Mode, Part, Prompt, TextPart, task_messages
from stepaudio.errors import ConfigError
from stepaudio.tasks.modes import Variant

ANSWER_FORMAT = "Output the final answer in <RESPONSE> </RESPONSE>."
Target = Literal["zh", "en", "ja"]
# Names of a language in Chinese and in English instructions.
_NAMES: Mapping[Target, tuple[str, str]] = {
    "zh": ("中文", "Chinese"),
    "en": ("英文", "English"),
    "ja": ("日文", "Japanese"),
}


def task_prompt(
    template: ChatTemplate,
    variant: Variant,
    instruction: str,
    content: Sequence[Part],
    answer: Mode = "text",
) -> Prompt:
    """Prompt of a task without history: flat for a Base model, which has no chat template.

    Args:
        template: chat template of the checkpoint.
        variant: variant of the checkpoint.
        instruction: what to do, in the checkpoint's words.
        content: what to do it with.
        answer: whether text or speech is wanted.
    """
    if variant == "base":
        return template.render_flat((TextPart(instruction), *content), mode=answer)
    return template.render(task_messages(instruction, content), mode=answer)


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
