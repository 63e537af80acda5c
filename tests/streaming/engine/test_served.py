"""Unchanged clients, a real socket, the real engine: a small random model, and nano itself."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, OpenAI

from stepaudio.audio.io import load_audio
from stepaudio.catalog import embedded_folder, find_voice
from stepaudio.tasks.step_audio import StepAudio
from stepaudio_streaming.cli import build_parser, main, read_keys
from stepaudio_streaming.engine.engine import StreamingEngine
from stepaudio_streaming.engine.loading import streaming_engine
from stepaudio_streaming.serve import service_routes
from tests.speaking import speaking_checkpoint
from tests.streaming.serving import Running, serving

NANO = embedded_folder("nano")
speaks = pytest.mark.skipif(
    NANO is None or not (NANO / "token2wav").is_dir(), reason="nano's weights cannot speak"
)


@contextmanager
def served(engine: StreamingEngine, model: StepAudio) -> Iterator[Running]:
    with (
        ThreadPoolExecutor(1) as executor,
        serving(engine, routers=service_routes(engine, model, executor)) as running,  # type: ignore[arg-type]
    ):
        yield running


@pytest.fixture(scope="module")
def server(engine: StreamingEngine, talker: StepAudio) -> Iterator[Running]:
    with served(engine, talker) as running:
        yield running


def client(server: Running) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0, timeout=60)


def encoded(samples: np.ndarray) -> str:
    return base64.b64encode((samples * 32767).astype("<i2").tobytes()).decode()


async def talk(
    server: Running, sound: np.ndarray, *, interrupt: bool = False
) -> dict[str, list[Any]]:
    """Say something (24 kHz) with server VAD, hear the answer; perhaps interrupt it.

    Returns:
        Events by their type.
    """
    seen: dict[str, list[Any]] = {}
    async with client(server).realtime.connect(model="nano") as connection:

        async def say() -> None:
            pause = np.zeros(24_000, np.float32)
            for piece in np.array_split(np.concatenate([pause, sound, pause]), 30):
                await connection.input_audio_buffer.append(audio=encoded(piece))

        await say()
        async for event in connection:
            seen.setdefault(event.type, []).append(event)
            if event.type == "response.output_audio.delta" and interrupt:
                interrupt = False
                await say()
            if event.type == "error":
                raise AssertionError(event)
            if event.type == "response.done" and event.response.status != "cancelled":
                break
    return seen


def speech() -> np.ndarray:
    """Two seconds of a voice of this package, 24 kHz."""
    samples = load_audio(find_voice("kathleen")).samples.numpy()[: 2 * 16_000]
    return np.interp(np.arange(0, len(samples) - 1, 2 / 3), np.arange(len(samples)), samples)


def check(seen: dict[str, list[Any]]) -> None:
    response = seen["response.done"][-1].response
    assert response.status in ("completed", "incomplete")
    (item,) = response.output
    assert item.content[0].transcript
    sound = b"".join(base64.b64decode(e.delta) for e in seen["response.output_audio.delta"])
    assert len(sound) > 2400
    assert response.usage.output_token_details.audio_tokens > 0
    assert response.usage.input_token_details.audio_tokens > 0


def test_two_sessions_talk_at_once(server: Running) -> None:
    async def both() -> list[dict[str, list[Any]]]:
        return list(await asyncio.gather(talk(server, speech()), talk(server, speech())))

    for seen in asyncio.run(both()):
        assert "input_audio_buffer.speech_started" in seen
        check(seen)


def test_an_answer_is_interrupted(server: Running) -> None:
    seen = asyncio.run(talk(server, speech(), interrupt=True))
    statuses = [event.response.status for event in seen["response.done"]]
    # A short answer may be complete before the user is heard to interrupt.
    assert statuses[-1] != "failed" and len(statuses) == 2
    assert len(seen["input_audio_buffer.speech_started"]) == 2


def test_texts_and_http_endpoints(server: Running) -> None:
    plain = OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0, timeout=60)
    assert plain.models.list().data[0].id == "nano"
    said = [
        plain.audio.speech.create(
            input="hello the dog",
            model="nano",
            voice="kathleen",
            response_format="pcm",
            extra_body={"seed": seed},
        ).content
        for seed in (1, 1, 2)
    ]
    assert len(said[0]) > 2400
    assert said[0] == said[1] != said[2]
    answer = plain.chat.completions.create(
        model="nano", messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.choices[0].message.content and answer.usage
    assert answer.usage.prompt_tokens > 5


def test_the_command_reads_its_arguments(tmp_path: Path, capsys: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of the office\nsk-one\n\n  sk-two\n")
    assert read_keys(keys) == ("sk-one", "sk-two")
    keys.write_text("# none\n")
    assert main(["--api-key-file", str(keys)]) == 1
    assert "has no key" in capsys.readouterr().err
    assert main(["--ssl-certfile", str(keys)]) == 1
    assert "belong together" in capsys.readouterr().err
    assert main(["--model", str(tmp_path / "nothing"), "--port", "0"]) == 1
    assert "nothing" in capsys.readouterr().err
    for wrong in (["--port", "70000"], ["--max-sessions", "0"]):
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args(wrong)
        assert ended.value.code == 2


def test_checkpoints_without_speech_are_refused_with_a_reason(tmp_path: Path, capsys: Any) -> None:
    mute = speaking_checkpoint(tmp_path / "mute", with_parts=False, modes=["asr", "voice_chat"])
    assert main(["--model", str(mute), "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert str(mute) in error and "there is no folder token2wav" in error
    deaf = speaking_checkpoint(tmp_path / "deaf", with_parts=False, modes=["asr"])
    assert main(["--model", str(deaf), "--port", "0"]) == 1
    assert "does not converse: it has the modes asr" in capsys.readouterr().err


def test_the_command_needs_nothing_slow_for_its_help() -> None:
    code = (
        "import sys; from stepaudio_streaming.cli import build_parser; build_parser().format_help()"
        "; assert not {'torch', 'fastapi'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@speaks
def test_nano_answers_in_speech() -> None:
    model = StepAudio.from_pretrained("nano")
    engine = streaming_engine(model)
    engine.start().result()
    try:
        with served(engine, model) as running:
            question = model.tts("what is your name").samples.numpy()
            check(asyncio.run(talk(running, question)))
    finally:
        engine.stop()
