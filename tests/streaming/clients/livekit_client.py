"""Converses with the unchanged realtime model of `livekit-plugins-openai`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from livekit import rtc
from livekit.agents import function_tool, llm
from livekit.plugins.openai import realtime

LOUD = b"\x28\x23" * (24 * 400)  # 400 ms of PCM16 at 24 kHz
SILENCE = bytes(2 * 24 * 900)


@function_tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def frames(pcm: bytes) -> list[rtc.AudioFrame]:
    step = 2 * 240
    return [
        rtc.AudioFrame(pcm[start : start + step], 24_000, 1, 240)
        for start in range(0, len(pcm), step)
    ]


class Talk:
    def __init__(self, session: Any) -> None:
        self.session = session
        self.seen: dict[str, Any] = {
            "audio_bytes": 0, "texts": [], "calls": [], "transcripts": [], "errors": [],
            "interrupted": False,
        }  # fmt: skip
        self.generations: asyncio.Queue[Any] = asyncio.Queue()
        session.on("generation_created", self.generations.put_nowait)
        session.on("error", lambda error: self.seen["errors"].append(str(error)))
        session.on("input_speech_started", lambda event: None)
        session.on("input_audio_transcription_completed", self._transcribed)

    def _transcribed(self, event: Any) -> None:
        if event.is_final:
            self.seen["transcripts"].append(event.transcript)

    def speak(self, pcm: bytes) -> None:
        for frame in frames(pcm):
            self.session.push_audio(frame)

    async def collect(self, *, interrupt: bool = False) -> list[Any]:
        """One generation: its words and sound; the function calls are returned."""
        generation = await self.generations.get()
        async for message in generation.message_stream:
            text = asyncio.create_task(self._text(message))
            async for frame in message.audio_stream:
                self.seen["audio_bytes"] += len(frame.data) * 2
                if interrupt:
                    interrupt = False
                    self.speak(LOUD)
            await text
            self.seen["message_id"] = message.message_id
        return [call async for call in generation.function_stream]

    async def _text(self, message: Any) -> None:
        self.seen["texts"].append("".join([str(part) async for part in message.text_stream]))


async def main(url: str, key: str) -> dict[str, Any]:
    base_url = url.removesuffix("/realtime").replace("ws://", "http://")
    model = realtime.RealtimeModel(base_url=base_url, api_key=key)
    session = model.session()
    talk = Talk(session)
    await session.update_instructions("be brief")
    await session.update_tools([weather])
    talk.speak(LOUD + SILENCE)
    await talk.collect()
    pending = session.generate_reply(instructions="what is the weather?")
    calls = await talk.collect()
    await pending
    for call in calls:
        output = await weather(**json.loads(call.arguments))
        talk.seen["calls"].append(output)
        context = session.chat_ctx.copy()
        context.items.append(
            llm.FunctionCallOutput(call_id=call.call_id, output=output, is_error=False)
        )
        await session.update_chat_ctx(context)
    session.generate_reply()
    await talk.collect()
    session.generate_reply()
    await talk.collect(interrupt=True)
    talk.seen["interrupted"] = True
    session.truncate(message_id=talk.seen["message_id"], modalities=["audio"], audio_end_ms=300)
    await session.update_instructions("be briefer")  # answered behind the truncation
    await session.aclose()
    await model.aclose()
    return talk.seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2]), 150))))
