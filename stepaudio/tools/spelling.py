"""How a word is spelled: a model of word pieces does not see letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from stepaudio.errors import ToolError
from stepaudio.tools.base import ToolResult, text_argument


@dataclass(frozen=True)
class SpellingTool:
    """Spells a word, letter by letter."""

    name: ClassVar[str] = "spelling"
    description: ClassVar[str] = "Spells a word letter by letter."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
    }

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """See `Tool`."""
        letters = [char for char in text_argument(arguments, "word").lower() if char.isalnum()]
        if not letters:
            raise ToolError("there is no letter in it")
        return ToolResult(" ".join(letters))
