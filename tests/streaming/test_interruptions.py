"""How soon an answer stops when the user speaks: the path, and the metric that measures it."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.engine import Loaded, StreamingEngine
from stepaudio_streaming.engine.onset import OnsetWatch
from stepaudio_streaming.events import (
    AppendAudio,
    ContextItem,
    ContextPart,
    InsertItem,
    OutputAudio,
    OutputHeld,
    Respond,
    SpeechStarted,
)
from stepaudio_streaming.server.interruptions import InterruptionWatch
from stepaudio_streaming.server.metrics import Histogram
from tests.streaming.engine.fakes import MANUAL, SPEAKER, VAD, ScriptedModel
from tests.streaming.engine.test_engine import INFO
from tests.streaming.scripted_engine import Line, ScriptedEngine
from tests.streaming.serving import receive_until, send, serving
from tests.streaming.sessions import pcm

LOUD = np.full(640, 0.3, np.float32)
QUIET = np.zeros(640, np.float32)


def test_frames_are_those_of_the_session_and_speech_holds_the_answer() -> None:
    model, watch = ScriptedModel(), OnsetWatch(VAD)
    heard, onset = watch.hear(model, AppendAudio(QUIET), True)  # 40 ms: one frame and a part
    assert heard.probabilities == (0.02,) and onset is None
    heard, onset = watch.hear(model, AppendAudio(LOUD), True)
    assert heard.probabilities == (0.95,) and onset is not None and onset.since_ms == 64
    assert watch.hear(model, AppendAudio(LOUD), False)[1] is None  # nobody speaks to him
    watch.configure(MANUAL)
    heard, onset = watch.hear(model, AppendAudio(LOUD), True)
    assert heard.probabilities is None and onset is None
    watch.configure(VAD)
    heard, onset = watch.hear(model, AppendAudio(LOUD), True)
    assert onset is not None and onset.since_ms == 32 * (5 * 640 // 512)


def test_an_answer_is_held_while_the_model_is_in_the_middle_of_a_step() -> None:
    model = ScriptedModel(phrase_codes=200)
    core = EngineCore(model, model, max_sessions=1)
    in_step, may_go_on = threading.Event(), threading.Event()
    plain = model.decode

    def slow(slots: Any) -> Any:
        if in_step.is_set():
            assert may_go_on.wait(20.0)
        return plain(slots)

    model.decode = slow  # type: ignore[method-assign]

    async def main() -> None:
        engine = StreamingEngine(lambda: Loaded(core, INFO))
        await asyncio.wrap_future(engine.start())
        session = await engine.open_session(VAD)
        question = ContextItem(item_id="q", kind="user", parts=(ContextPart("one two"),))
        await session.send(InsertItem(question, None))
        await session.send(Respond(response_id="r", item_id="i", options=SPEAKER))
        events = session.events()
        async for event in events:
            if isinstance(event, OutputAudio) and session.heard_until > engine.now():
                break
        in_step.set()
        await session.send(AppendAudio(LOUD))
        async for event in events:
            if isinstance(event, OutputHeld):
                assert event.held
                break
        assert not may_go_on.is_set()
        may_go_on.set()
        for _ in range(8):
            await session.send(AppendAudio(LOUD))
        async for event in events:
            if isinstance(event, SpeechStarted):
                break
        await session.close()
        await asyncio.to_thread(engine.stop)

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_the_time_from_the_onset_to_the_last_audio_is_counted() -> None:
    histogram = Histogram("h", "text", (0.0, 0.25, 0.5))
    watch = InterruptionWatch(histogram)
    for number in range(10):
        watch.appended(20 * (number + 1), 5.0 + 0.125 * number)
        watch.sent(5.0 + 0.125 * number)
    watch.hear(OutputHeld(True, 130))  # arrived with 140 ms, at 5.75; the last audio went at 6.125
    watch.hear(OutputHeld(True, 190))
    watch.hear(SpeechStarted(0))
    assert histogram.lines()[-2:] == ["h_sum 0.375", "h_count 1"]
    watch.hear(OutputHeld(True, 200))
    watch.hear(OutputHeld(False))  # a cough
    watch.hear(SpeechStarted(0))
    assert histogram.lines()[-1] == "h_count 1"
    watch.sent(5.0)
    watch.hear(OutputHeld(True, 200))  # nothing was sent behind it
    watch.hear(SpeechStarted(0))
    assert histogram.lines()[-2:] == ["h_sum 0.375", "h_count 2"]
    assert 'h_bucket{le="0.0"} 1' in histogram.lines()


def test_a_sound_at_the_end_of_an_answer_is_not_taken_for_the_next_turn() -> None:
    histogram = Histogram("h", "text", (0.0, 0.25, 0.5))
    watch = InterruptionWatch(histogram)
    for number in range(200):
        watch.appended(20 * (number + 1), 0.02 * number)
    watch.hear(OutputHeld(True, 500))
    watch.hear(SpeechStarted(2000))
    assert histogram.lines()[-1] == "h_count 0"
    watch.hear(OutputHeld(True, 500))
    watch.hear(OutputHeld(True, 3000))  # arrived at 2.98
    watch.sent(3.1)
    watch.hear(SpeechStarted(2700))
    assert histogram.lines()[-1] == "h_count 1"
    assert float(histogram.lines()[-2].split()[1]) == pytest.approx(0.12)


def test_operators_see_how_soon_interrupted_answers_stop() -> None:
    endless = Line(words=("word ",) * 1000, word_ms=400, pace_s=0.01)
    with serving(ScriptedEngine((endless,))) as server, server.connect() as client:
        send(client, "response.create")
        receive_until(client, "response.output_audio.delta")
        speech = base64.b64encode(pcm(400, 8000)).decode()
        send(client, "input_audio_buffer.append", audio=speech)
        done = receive_until(client, "response.done")[-1]["response"]
        assert done["status_details"]["reason"] == "turn_detected"
        text = httpx.get(f"{server.http}/metrics").text
    assert "stepaudio_barge_in_stop_seconds_count 1" in text
