"""What the browser asks for beside the conversation itself: the model's state, and tools."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from stepaudio.conversation import ToolCall
from stepaudio.tools import TimerTool, builtin_tools
from stepaudio_webui.backend import Backend

# Names of the models' own making; the first is what they are without a persona.
PERSONAS: Mapping[str, str] = {
    "Assistant": "you are nano a small voice assistant",
    "Doctor": "you are a calm doctor called alice",
    "Teacher": "you are a patient teacher called tom",
    "Pirate": "you are a cheerful pirate called jack",
}


class ToolRequest(BaseModel):
    """A call of the model.

    Attributes:
        name: of the tool.
        arguments: as the model wrote them.
    """

    name: str
    arguments: dict[str, Any]


def voice_routes(backend: Backend) -> APIRouter:
    """Build the endpoints below ``/voice``.

    Args:
        backend: the model behind the page.
    """
    router = APIRouter(prefix="/voice")
    # The realtime protocol has the function's fields beside its type.
    schemas = [{"type": "function", **schema["function"]} for schema in builtin_tools().schemas]

    @router.get("/status")
    async def status() -> Mapping[str, Any]:
        """State, voices and tools; polled while the model loads."""
        known = await asyncio.to_thread(backend.status)
        return {**dataclasses.asdict(known), "tools": schemas, "personas": PERSONAS}

    @router.post("/tool")
    async def tool(request: ToolRequest) -> Mapping[str, Any]:
        """Do what the model has asked for; failures are results too."""
        timer = TimerTool()  # which rings in the browser that has set it
        tools = builtin_tools(timer=timer)
        result = await tools.call(ToolCall(request.name, request.arguments))
        rings_in_s = timer.running[0].duration_s if timer.running else None
        return {"text": result.text, "failed": result.failed, "rings_in_s": rings_in_s}

    return router
