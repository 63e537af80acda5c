"""The audio endpoints, asked by the unchanged `openai` SDK; scripted hearing and speaking."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from openai import OpenAI

from stepaudio.audio.io import load_audio
from stepaudio.errors import AudioLoadError, StepAudioError
from stepaudio.tasks.transcript import Segment, Word
from stepaudio_streaming.http_api.chat import chat_routes
from stepaudio_streaming.http_api.services import (
    Recognition,
    RecognitionRequest,
    Speech,
    SpeechRequest,
    SpokenPiece,
)
from stepaudio_streaming.http_api.speech import speech_routes
from stepaudio_streaming.http_api.transcriptions import transcription_routes
from tests.streaming.scripted_engine import Line, ScriptedEngine, tone
from tests.streaming.serving import Running, serving

KEY = "sk-test"
SEGMENTS = (
    Segment(0.0, 1.0, "four hours", (Word("four", 0.1, 0.4, 0.9), Word("hours", 0.5, 0.9, 0.8))),
    Segment(1.5, 2.25, "of steady work"),
)


class ScriptedRecognizer:
    def __init__(self) -> None:
        self.requests: list[RecognitionRequest] = []

    async def recognize(self, request: RecognitionRequest) -> Recognition:
        self.requests.append(request)
        if request.audio.startswith(b"bad"):
            raise AudioLoadError(f"{request.name}: not audio in any format that can be decoded")
        return Recognition(self._segments(request), 2.5, "en")

    async def _segments(self, request: RecognitionRequest) -> AsyncIterator[Segment]:
        for segment in SEGMENTS:
            yield segment
            await asyncio.sleep(0)
        if request.audio.startswith(b"breaks"):
            raise StepAudioError("the model is gone")


class ScriptedSpeaker:
    voices = ("kathleen", "emodb03")

    def __init__(self) -> None:
        self.requests: list[SpeechRequest] = []
        self.num_open = 0

    async def speak(self, request: SpeechRequest) -> Speech:
        self.requests.append(request)
        return Speech(self._pieces(request), input_tokens=len(request.text.split()))

    async def _pieces(self, request: SpeechRequest) -> AsyncGenerator[SpokenPiece, None]:
        self.num_open += 1
        try:
            for number, _ in enumerate(request.text.split()):
                if number:
                    await asyncio.sleep(0.001)
                yield SpokenPiece(tone(200), num_tokens=5)
        finally:
            self.num_open -= 1


LINES = (Line(words=("Good", " day.")),)


@pytest.fixture(scope="module")
def recognizer() -> ScriptedRecognizer:
    return ScriptedRecognizer()


@pytest.fixture(scope="module")
def speaker() -> ScriptedSpeaker:
    return ScriptedSpeaker()


@pytest.fixture(scope="module")
def server(recognizer: ScriptedRecognizer, speaker: ScriptedSpeaker) -> Any:
    engine = ScriptedEngine(LINES)
    routers = (
        transcription_routes(recognizer, "nano"),
        speech_routes(speaker, "nano"),
        chat_routes(engine),
    )
    with serving(engine, routers=routers, api_keys=(KEY,)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.http}/v1", api_key=KEY, max_retries=0, timeout=20)


def wav(samples: np.ndarray | None = None) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, tone(300) if samples is None else samples, 24_000, format="WAV")
    return data.getvalue()


# ---- transcriptions ------------------------------------------------------------------------------


def test_json(client: OpenAI, recognizer: ScriptedRecognizer) -> None:
    result = client.audio.transcriptions.create(
        file=("a.wav", b"sound"), model="whisper-1", language="en", prompt="work"
    )
    assert result.text == "four hours of steady work"
    assert result.usage is not None and result.usage.type == "duration"
    assert result.usage.seconds == 2.5
    request = recognizer.requests[-1]
    assert (request.audio, request.name, request.language) == (b"sound", "a.wav", "en")


def test_verbose_json_with_words(client: OpenAI, recognizer: ScriptedRecognizer) -> None:
    result = client.audio.transcriptions.create(
        file=("a.wav", b"sound"),
        model="nano",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert recognizer.requests[-1].words
    assert isinstance(result.duration, float) and result.duration == 2.5
    assert result.language == "english"
    assert result.words is not None and result.segments is not None
    assert [(w.word, w.start, w.end) for w in result.words] == [
        ("four", 0.1, 0.4),
        ("hours", 0.5, 0.9),
    ]
    assert [(s.id, s.start, s.end, s.text) for s in result.segments] == [
        (0, 0.0, 1.0, "four hours"),
        (1, 1.5, 2.25, "of steady work"),
    ]
    assert result.segments[0].avg_logprob < 0


def test_verbose_json_has_words_only_if_asked(client: OpenAI) -> None:
    result = client.audio.transcriptions.create(
        file=("a.wav", b"sound"), model="nano", response_format="verbose_json"
    )
    assert result.words is None and result.segments


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ("text", "four hours of steady work\n"),
        (
            "srt",
            "1\n00:00:00,100 --> 00:00:01,100\nfour hours\n\n"
            "2\n00:00:01,500 --> 00:00:02,500\nof steady work\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.100 --> 00:00:01.100\nfour hours\n\n"
            "00:00:01.500 --> 00:00:02.500\nof steady work\n",
        ),
    ],
)
def test_plain_formats(client: OpenAI, response_format: Any, expected: str) -> None:
    result: Any = client.audio.transcriptions.create(
        file=("a.wav", b"sound"), model="nano", response_format=response_format
    )
    assert result == expected


def test_a_stream(client: OpenAI, recognizer: ScriptedRecognizer) -> None:
    events = list(
        client.audio.transcriptions.create(file=("a.wav", b"sound"), model="nano", stream=True)
    )
    assert recognizer.requests[-1].stream
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert deltas == ["four hours", " of steady work"]
    done = events[-1]
    assert done.type == "transcript.text.done" and done.text == "".join(deltas)


def test_a_stream_that_breaks_says_so(client: OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        file=("a.wav", b"breaks"), model="nano", stream=True
    )
    with pytest.raises(openai.APIError, match="the model is gone"):
        list(stream)


def test_translations(client: OpenAI, recognizer: ScriptedRecognizer) -> None:
    result = client.audio.translations.create(file=("a.wav", b"sound"), model="whisper-1")
    assert result.text == "four hours of steady work"
    assert recognizer.requests[-1].translate


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "gpt-2"}, "model"),
        ({"response_format": "poem"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": 7}, "temperature"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"stream": True, "response_format": "srt"}, "response_format"),
        ({"include": ["logprobs"]}, "include"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"file": ("a.wav", b"bad")}, "file"),
    ],
)
def test_refused_transcriptions(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    arguments: Any = {"file": ("a.wav", b"sound"), "model": "nano", **fields}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.audio.transcriptions.create(**arguments)
    body: Any = caught.value.body
    assert body["param"].endswith(param) and body["type"] == "invalid_request_error"


def test_uploads_are_limited(server: Running) -> None:
    for size, status in ((25_000_000, 200), (25_000_001, 413), (30_000_000, 413)):
        response = httpx.post(
            f"{server.http}/v1/audio/transcriptions",
            files={"file": ("a.wav", bytes(size))},
            data={"model": "nano"},
            headers={"authorization": f"Bearer {KEY}"},
            timeout=60,
        )
        assert response.status_code == status


# ---- speech --------------------------------------------------------------------------------------


@pytest.mark.parametrize("response_format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_every_format_holds_the_sound(
    client: OpenAI, response_format: Any, speaker: ScriptedSpeaker
) -> None:
    response = client.audio.speech.create(
        input="one two three", model="tts-1", voice="alloy", response_format=response_format
    )
    data = response.content
    if response_format == "pcm":
        samples = np.frombuffer(data, "<i2") / 32768
    else:
        samples = load_audio(data, sample_rate=24_000).samples.numpy()
    # Codecs add a little silence.
    assert 0.6 <= len(samples) / 24_000 < 0.8
    middle = samples[7000:9000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * 24_000 / len(middle) - 440) < 20
    assert 0.25 < np.abs(middle).max() < 0.35
    assert speaker.requests[-1].voice in speaker.voices and speaker.num_open == 0


def test_a_streamed_wav_has_an_unknown_size_and_a_finished_one_its_own(client: OpenAI) -> None:
    def speak(text: str) -> Any:
        return client.audio.speech.with_raw_response.create(
            input=text, model="nano", voice="kathleen", response_format="wav"
        )

    streamed, whole = speak("one two three"), speak("one")
    assert struct.unpack("<I", streamed.content[40:44])[0] == 0xFFFFFFFF
    assert "content-length" not in streamed.headers
    assert struct.unpack("<I", whole.content[40:44])[0] == 2 * 4800
    assert int(whole.headers["content-length"]) == 44 + 2 * 4800


def test_speech_as_events(client: OpenAI) -> None:
    sound, done = b"", None
    with client.audio.speech.with_streaming_response.create(
        input="one two three",
        model="gpt-4o-mini-tts",
        voice="emodb03",
        response_format="pcm",
        stream_format="sse",
        instructions="whisper",
        speed=1.5,
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if event["type"] == "speech.audio.delta":
                    sound += base64.b64decode(event["audio"])
                else:
                    done = event
    assert len(sound) == 3 * 2 * 4800
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 3, "output_tokens": 15, "total_tokens": 18},
    }


def test_speech_takes_a_seed(client: OpenAI, speaker: ScriptedSpeaker) -> None:
    for fields in ({}, {"extra_body": {"seed": 7}}):
        client.audio.speech.create(input="hi", model="nano", voice="kathleen", **fields)
    assert [request.seed for request in speaker.requests[-2:]] == [0, 7]


def test_a_listener_who_leaves_ends_the_work(client: OpenAI, speaker: ScriptedSpeaker) -> None:
    with client.audio.speech.with_streaming_response.create(
        input="word " * 800, model="nano", voice="kathleen", response_format="pcm"
    ) as response:
        next(response.iter_bytes())
    for _ in range(200):
        if speaker.num_open == 0:
            return
        client.models.retrieve("nano")  # the server's loop turns
    raise AssertionError("the speaker goes on")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"voice": "bob"}, "voice"),
        ({"speed": 9}, "speed"),
        ({"response_format": "midi"}, "response_format"),
        ({"model": "gpt-2"}, "model"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"extra_body": {"seed": -1}}, "seed"),
    ],
)
def test_refused_speech(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    arguments: Any = {"input": "hi", "model": "nano", "voice": "alloy", **fields}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.audio.speech.create(**arguments)
    body: Any = caught.value.body
    assert body["param"].endswith(param)


# ---- chat ----------------------------------------------------------------------------------------


def ask(client: OpenAI, content: Any = "hi", **fields: Any) -> Any:
    messages = fields.pop("messages", [{"role": "user", "content": content}])
    return client.chat.completions.create(**{"model": "nano", "messages": messages, **fields})


def test_a_written_answer(client: OpenAI, server: Running) -> None:
    system = {"role": "system", "content": "be brief"}
    answer = ask(
        client,
        messages=[system, {"role": "user", "content": "hi"}],
        max_completion_tokens=9,
        temperature=0.5,
    )
    assert answer.choices[0].message.content == "Good day."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 12 and answer.usage.completion_tokens == 2
    assert answer.usage.prompt_tokens_details.audio_tokens == 4
    (respond,) = server.engine.sessions[-1].commands
    assert respond.options.instructions == "be brief"
    assert (respond.options.max_output_tokens, respond.options.temperature) == (9, 0.5)
    assert [item.kind for item in respond.context] == ["user"]
    assert server.engine.num_open == 0


def test_a_spoken_question_and_a_spoken_answer(client: OpenAI, server: Running) -> None:
    audio = {"data": base64.b64encode(wav()).decode(), "format": "wav"}
    content = [
        {"type": "text", "text": "what is this?"},
        {"type": "input_audio", "input_audio": audio},
    ]
    answer = ask(
        client, content, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}
    )
    message = answer.choices[0].message
    assert message.content is None and message.audio.transcript == "Good day."
    assert load_audio(base64.b64decode(message.audio.data)).duration_s == pytest.approx(0.4)
    heard = server.engine.sessions[-1].commands[0].context[0].parts
    assert heard[0].text == "what is this?"
    assert len(heard[1].samples) == 4800
    # The next request refers to what was said.
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "audio": {"id": message.audio.id}},
        {"role": "user", "content": "again"},
    ]
    ask(client, messages=messages)
    items = server.engine.sessions[-1].commands[0].context
    assert [item.parts[0].text for item in items] == ["hi", "Good day.", "again"]
    messages[1] = {"role": "assistant", "audio": {"id": "audio_unknown"}}
    with pytest.raises(openai.BadRequestError):
        ask(client, messages=messages)


def test_a_stream_of_text(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Good day."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 14
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_of_speech(client: OpenAI) -> None:
    chunks = list(
        ask(
            client,
            stream=True,
            modalities=["text", "audio"],
            audio={"voice": "marin", "format": "pcm16"},
        )
    )
    parts = [
        chunk.choices[0].delta.audio
        for chunk in chunks
        if getattr(chunk.choices[0].delta, "audio", None)
    ]
    assert "".join(part.transcript or "" for part in parts) == "Good day."
    sound = b"".join(base64.b64decode(part.data or "") for part in parts)
    assert len(sound) == 2 * 24 * 400 and parts[-1].expires_at


def test_function_calls() -> None:
    lines = (Line(call=("weather", '{"city":"Ulm"}')),)
    engine = ScriptedEngine(lines)
    tool: Any = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object"}},
    }
    with serving(engine, routers=(chat_routes(engine),)) as server:
        client = OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0)
        answer = ask(client, tools=[tool], tool_choice="required")
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        call = choice.message.tool_calls[0]
        assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Ulm"}')
        messages = [
            {"role": "user", "content": "weather?"},
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ]
        chunks = list(ask(client, messages=messages, tools=[tool], stream=True))
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        items = engine.sessions[-1].commands[0].context  # type: ignore[union-attr]
        assert [item.kind for item in items] == [  # type: ignore[union-attr]
            "user",
            "function_call",
            "function_call_output",
        ]
        assert items[1].call_id == items[2].call_id == call.id  # type: ignore[union-attr,index]


def test_failures_and_full_engines() -> None:
    engine = ScriptedEngine((Line(words=(), error="the context is full"),), max_sessions=1)
    with serving(engine, routers=(chat_routes(engine),)) as server:
        client = OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="the context is full"):
            ask(client)
        with pytest.raises(openai.APIError, match="the context is full"):
            list(ask(client, stream=True))
        with server.connect() as taken:
            taken.recv()
            with pytest.raises(openai.RateLimitError):
                ask(client)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"modalities": ["text", "audio"]}, "audio"),
        (
            {
                "modalities": ["text", "audio"],
                "audio": {"voice": "ash", "format": "mp3"},
                "stream": True,
            },
            "audio.format",
        ),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "type"),
        (
            {"content": [{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}]},
            "data",
        ),
        (
            {
                "content": [
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
                ]
            },
            "file",
        ),
        ({"logprobs": True}, "logprobs"),
        ({"model": "gpt-2"}, "model"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_refused_chats(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        ask(client, **fields)
    body: Any = caught.value.body
    assert body["param"].endswith(param), body


# ---- the library behind them ---------------------------------------------------------------------


def test_nano_writes_down_a_recording(examples: Path) -> None:
    from stepaudio.tasks.asr import Transcriber
    from stepaudio_streaming.http_api.library import LibraryRecognizer

    with ThreadPoolExecutor(1) as executor:
        transcriber = Transcriber.from_pretrained("nano", device="cpu")
        routes = transcription_routes(LibraryRecognizer(lambda: transcriber, executor), "nano")
        recording = examples / "digit_four.wav"
        expected = transcriber.transcribe(recording).text
        with serving(routers=(routes,)) as server:
            client = OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0)
            with recording.open("rb") as file:
                whole = client.audio.transcriptions.create(file=file, model="nano")
            with recording.open("rb") as file:
                stream = client.audio.transcriptions.create(file=file, model="nano", stream=True)
                done = list(stream)[-1]
            assert whole.text == expected and expected
            assert done.type == "transcript.text.done" and done.text
            with recording.open("rb") as file:
                hinted = client.audio.transcriptions.create(
                    file=file, model="nano", extra_body={"keywords": ["Fourier"]}
                )
            assert hinted.text == transcriber.transcribe(recording, hotwords=["Fourier"]).text
            with recording.open("rb") as file, pytest.raises(openai.BadRequestError) as caught:
                client.audio.transcriptions.create(
                    file=file, model="nano", extra_body={"keywords": ["!?"]}
                )
            assert caught.value.param == "keywords"
            with pytest.raises(openai.BadRequestError):
                client.audio.translations.create(file=("a.wav", wav()), model="nano")
            with pytest.raises(openai.BadRequestError):
                client.audio.transcriptions.create(file=("a.wav", b"noise"), model="nano")
