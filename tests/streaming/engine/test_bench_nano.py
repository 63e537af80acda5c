"""`stepaudio-bench realtime` against nano itself."""

from __future__ import annotations

import asyncio

from stepaudio.tasks.step_audio import StepAudio
from stepaudio_streaming.bench.recordings import load_recordings
from stepaudio_streaming.bench.run import BenchOptions, measure
from stepaudio_streaming.bench.speaker import SpeakerOptions
from stepaudio_streaming.bench.target import parse_target
from stepaudio_streaming.bench.usage import build_meter
from stepaudio_streaming.engine.loading import streaming_engine
from tests.streaming.engine.test_served import served, speaks


@speaks
def test_nano_answers_two_speakers() -> None:
    model = StepAudio.from_pretrained("nano")
    engine = streaming_engine(model)
    engine.start().result()
    transcription = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
    speaker = SpeakerOptions(turns=1, pause_s=0.1, answer_timeout_s=300, session=transcription)
    try:
        with served(engine, model) as server:
            target = parse_target(server.http, model="nano")
            report = asyncio.run(
                measure(
                    target,
                    load_recordings([])[:1],
                    BenchOptions(sessions=2, speaker=speaker),
                    build_meter(target, None),
                )
            )
    finally:
        engine.stop()
    assert [turn.status for turn in report.answered] == ["completed"] * 2
    for turn in report.answered:
        assert turn.said and turn.heard and turn.audio_s > 0.3
        assert turn.first_audio_s is not None and turn.vad_wait_s is not None
    counts = report.counts()
    assert not any(name.startswith(("errors", "lost", "foreign")) for name in counts)
    assert any(sample.memory_mb for sample in report.usage)
