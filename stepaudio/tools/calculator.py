"""Small sums, as they are spoken."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from stepaudio.errors import ToolError
from stepaudio.tools.base import ToolResult, text_argument
from stepaudio.tools.numbers import parse_number

_LARGEST = 1e12
_OPERATOR = re.compile(r"(?<=\S) (plus|minus|times|divided by) ")


def calculate(text: str) -> float:
    """Value of a sum such as "seven plus twelve"; products and quotients come first.

    Example:
        >>> calculate("seven plus twelve"), calculate("two plus three times four")
        (19.0, 14.0)

    Raises:
        ToolError: it is no sum, or has no value.
    """
    first, *pairs = _OPERATOR.split(text.strip())
    terms = [_value(first)]
    for operator, number in zip(pairs[::2], pairs[1::2], strict=True):
        value = _value(number)
        match operator:
            case "plus":
                terms.append(value)
            case "minus":
                terms.append(-value)
            case "times":
                terms[-1] *= value
            case _:
                if not value:
                    raise ToolError("nothing can be divided by zero")
                terms[-1] /= value
    result = math.fsum(terms)
    if not pairs or abs(result) > _LARGEST:
        raise ToolError(f"{text!r} is no small sum")
    return result


@dataclass(frozen=True)
class CalculatorTool:
    """Adds, subtracts, multiplies and divides."""

    name: ClassVar[str] = "calculator"
    description: ClassVar[str] = "Calculates sums, differences, products and quotients."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {"sum": {"type": "string", "description": "such as seven plus twelve"}},
        "required": ["sum"],
    }

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """See `Tool`."""
        sum_ = text_argument(arguments, "sum")
        result = round(calculate(sum_), 2)
        return ToolResult(f"{sum_} is {result:.2f}".removesuffix("0").removesuffix(".0"))


def _value(text: str) -> float:
    value = parse_number(text)
    if value is None:
        raise ToolError(f"{text!r} is no number")
    return value
