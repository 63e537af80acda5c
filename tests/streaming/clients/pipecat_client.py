"""Converses with the unchanged OpenAI realtime service of `pipecat-ai` in a pipeline."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime.events import SessionProperties
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

LOUD = b"\x28\x23" * (24 * 400)  # 400 ms of PCM16 at 24 kHz
SILENCE = bytes(2 * 24 * 900)


def frames(pcm: bytes) -> list[Frame]:
    step = 2 * 24 * 20
    return [
        InputAudioRawFrame(pcm[start : start + step], 24_000, 1)
        for start in range(0, len(pcm), step)
    ]


class Listener(FrameProcessor):
    """Hears what comes out of the model, and leads the conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {
            "audio_bytes": 0, "text": "", "tools": [], "interrupted": False, "errors": []
        }  # fmt: skip
        self.worker: Any = None
        self._num_turns = 0
        self._interrupts = False

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.seen["audio_bytes"] += len(frame.audio)
            if self._num_turns == 2 and not self._interrupts:
                self._interrupts = True
                await self.worker.queue_frames(frames(LOUD))
        elif isinstance(frame, TTSTextFrame):
            self.seen["text"] += frame.text
        elif isinstance(frame, LLMFullResponseEndFrame):
            await self._answered()
        elif isinstance(frame, InterruptionFrame) and self._interrupts:
            self.seen["interrupted"] = True
            await self.worker.cancel()
        await self.push_frame(frame, direction)

    async def _answered(self) -> None:
        """Say something else behind each answer; function calls are no answer."""
        for number, words in enumerate(("Hello there.", "Rain in Ulm.")):
            if self._num_turns == number and words in self.seen["text"]:
                self._num_turns += 1
                await self.worker.queue_frames(frames(LOUD + SILENCE))
                return


async def main(url: str, key: str) -> dict[str, Any]:
    listener = Listener()

    async def weather(params: Any) -> None:
        listener.seen["tools"].append(params.arguments["city"])
        await params.result_callback({"weather": "rain"})

    llm = OpenAIRealtimeLLMService(
        api_key=key,
        base_url=url,
        settings=OpenAIRealtimeLLMService.Settings(
            system_instruction="be brief", session_properties=SessionProperties()
        ),
    )
    llm.register_function("weather", weather)

    @llm.event_handler("on_error")
    async def on_error(service: Any, frame: ErrorFrame) -> None:
        listener.seen["errors"].append(frame.error)

    schema = FunctionSchema(
        name="weather",
        description="Tell the weather.",
        properties={"city": {"type": "string"}},
        required=["city"],
    )
    context = LLMContext([], ToolsSchema(standard_tools=[schema]))
    pair = LLMContextAggregatorPair(context)
    pipeline = Pipeline([pair.user(), llm, listener, pair.assistant()])
    rates = PipelineParams(audio_in_sample_rate=24_000, audio_out_sample_rate=24_000)
    worker = PipelineWorker(pipeline, params=rates)
    listener.worker = worker

    @worker.event_handler("on_pipeline_started")
    async def on_started(worker: Any, frame: Frame) -> None:
        await worker.queue_frames([LLMRunFrame()])

    runner = PipelineRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
    return listener.seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2]), 150))))
