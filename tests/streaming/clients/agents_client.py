"""Converses with the unchanged `openai-agents` package; exit status 0 if all went well."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner

LOUD = b"\x28\x23" * (24 * 400)  # 400 ms of PCM16 at 24 kHz
SILENCE = bytes(2 * 24 * 900)


@function_tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


async def main(url: str, key: str) -> dict[str, Any]:
    agent = RealtimeAgent(name="Assistant", instructions="be brief", tools=[weather])
    runner = RealtimeRunner(agent)
    config: Any = {"url": f"{url}?model=gpt-realtime", "api_key": key}
    seen: dict[str, Any] = {"audio_bytes": 0, "tools": [], "interrupted": False, "errors": []}
    async with await runner.run(model_config=config) as session:
        await session.send_audio(LOUD + SILENCE)
        turns = 0
        async for event in session:
            if event.type == "audio":
                seen["audio_bytes"] += len(event.audio.data)
                if turns == 2 and not seen["interrupted"]:
                    await session.send_audio(LOUD)
            elif event.type == "tool_end":
                seen["tools"].append(str(event.output))
            elif event.type == "error":
                seen["errors"].append(str(event.error))
            elif event.type == "audio_interrupted":
                seen["interrupted"] = True
                break
            elif event.type == "agent_end":
                turns += 1
                if turns == 1:
                    await session.send_message("what is the weather?")
                elif turns == 2 and not seen["tools"]:
                    turns = 1  # the turn of the function call; its answer is the second
                elif turns == 2:
                    seen["history"] = [
                        [getattr(part, "transcript", None) or getattr(part, "text", None)
                         for part in getattr(item, "content", [])]
                        for item in session._history
                    ]  # fmt: skip
                    await session.send_message("tell me everything")
    return seen


if __name__ == "__main__":
    result = asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2]), 150))
    print(json.dumps(result))
