"""Session objects, input audio, items, idle timeout, transcription sessions, client secrets."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from stepaudio.errors import CapacityError
from stepaudio_streaming.events import (
    AppendAudio,
    CancelResponse,
    ClearAudio,
    CommitAudio,
    Configure,
    InsertItem,
    RemoveItem,
    Respond,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
    UserTranscript,
)
from stepaudio_streaming.protocol.secrets import ClientSecrets
from stepaudio_streaming.protocol.session_config import default_config
from tests.streaming.sessions import Driver, kinds, pcm


def text_item(text: str = "hi", **fields: Any) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content, **fields}


# ---- session -------------------------------------------------------------------------------------


def test_the_session_comes_first_with_every_default() -> None:
    event = Driver().log[0]
    assert event["type"] == "session.created"
    session = event["session"]
    assert session["object"] == "realtime.session" and session["type"] == "realtime"
    assert session["output_modalities"] == ["audio"] and session["max_output_tokens"] == "inf"
    assert session["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }
    assert session["audio"]["input"]["transcription"] is None


def test_updates_merge_deeply_and_are_echoed_whole() -> None:
    driver = Driver()
    driver.update(instructions="be kind", audio={"input": {"turn_detection": {"threshold": 0.7}}})
    (event,) = driver.update(audio={"output": {"speed": 1.25}})
    session = event["session"]
    assert event["type"] == "session.updated"
    assert session["instructions"] == "be kind" and session["audio"]["output"]["speed"] == 1.25
    assert session["audio"]["input"]["turn_detection"]["threshold"] == 0.7
    assert session["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    settings = driver.commands[-1]
    assert isinstance(settings, Configure) and settings.turn_detection is not None
    assert settings.turn_detection.threshold == 0.7 and settings.reply.speed == 1.25
    (event,) = driver.update(instructions="", audio={"input": {"turn_detection": None}})
    assert event["session"]["instructions"] == ""
    assert event["session"]["audio"]["input"]["turn_detection"] is None
    assert driver.commands[-1].turn_detection is None  # type: ignore[union-attr]


def test_another_kind_of_turn_detection_starts_from_its_own_defaults() -> None:
    driver = Driver(audio={"input": {"turn_detection": {"type": "server_vad", "threshold": 0.9}}})
    (event,) = driver.update(
        audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}}
    )
    assert event["session"]["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "low",
        "create_response": True,
        "interrupt_response": True,
    }


STOCK_UPDATES: dict[str, dict[str, Any]] = {
    "agents": {
        "model": "gpt-realtime-2.1",
        "output_modalities": ["audio"],
        "tracing": "auto",
        "tools": [],
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "gpt-4o-mini-transcribe"},
                "turn_detection": {"type": "semantic_vad", "interrupt_response": True},
                "noise_reduction": None,
            },
            "output": {"voice": "ash", "format": {"type": "audio/pcm", "rate": 24000}},
        },
    },
    "pipecat": {
        "instructions": "be brief",
        "audio": {"input": {"transcription": {"model": "gpt-realtime-whisper"}}},
    },
    "livekit": {
        "model": "gpt-realtime",
        "audio": {
            "input": {
                "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
                "turn_detection": {"type": "semantic_vad", "eagerness": "medium"},
            },
            "output": {"voice": "marin", "speed": 1.0},
        },
        "max_output_tokens": "inf",
        "tool_choice": "auto",
    },
}


@pytest.mark.parametrize("name", STOCK_UPDATES)
def test_what_stock_clients_send_first_is_accepted(name: str) -> None:
    driver = Driver()
    (event,) = driver.update(**STOCK_UPDATES[name])
    assert event["type"] == "session.updated"
    patch = STOCK_UPDATES[name]
    if "output" in patch["audio"]:
        voice = patch["audio"]["output"]["voice"]
        assert event["session"]["audio"]["output"]["voice"] == voice
        assert driver.commands[-1].reply.voice in ("kathleen", "emodb03")  # type: ignore[union-attr]


REFUSED: list[tuple[Any, str, str | None]] = [
    ({"type": None}, "missing_required_parameter", "session.type"),
    ({"colour": "red"}, "unknown_parameter", "session.colour"),
    ({"voice": "ash"}, "unknown_parameter", "session.voice"),
    (
        {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}},
        "invalid_value",
        "session.audio.input.format.rate",
    ),
    (
        {"audio": {"input": {"turn_detection": {"threshold": 2}}}},
        "invalid_value",
        "session.audio.input.turn_detection.threshold",
    ),
    (
        {"audio": {"input": {"turn_detection": {"threshold": "0.5"}}}},
        "invalid_type",
        "session.audio.input.turn_detection.threshold",
    ),
    ({"audio": {"output": {"speed": 3}}}, "invalid_value", "session.audio.output.speed"),
    ({"audio": {"output": {"voice": "bob"}}}, "invalid_value", "session.audio.output.voice"),
    ({"output_modalities": ["text", "audio"]}, "invalid_value", "session.output_modalities"),
    ({"max_output_tokens": 0}, "invalid_value", "session.max_output_tokens"),
    ({"model": "gpt-2"}, "model_not_found", "session.model"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "invalid_value", "session.tools[0].type"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "invalid_value", "session.tool_choice"),
    ({"prompt": {"id": "pmpt_1"}}, "invalid_value", "session.prompt"),
]


@pytest.mark.parametrize(("patch", "code", "param"), REFUSED)
def test_an_invalid_update_changes_nothing(patch: Any, code: str, param: str | None) -> None:
    driver = Driver()
    before = driver.session.config
    patch = {"type": "realtime", "instructions": "new", **patch}
    (event,) = driver.client("session.update", session=patch, event_id="u1")
    assert event["type"] == "error"
    error = event["error"]
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "u1")
    assert driver.session.config is before and driver.commands == []


def test_tracing_is_fixed_once_it_is_set() -> None:
    driver = Driver()
    assert driver.update(tracing="auto")[0]["session"]["tracing"] == "auto"
    driver.update(tracing="auto")
    driver.update(tracing=None)
    assert driver.errors()[-1]["param"] == "session.tracing"


# ---- input audio ---------------------------------------------------------------------------------


def manual(**options: Any) -> Driver:
    return Driver(audio={"input": {"turn_detection": None}}, **options)


def test_a_manual_turn() -> None:
    driver = manual()
    assert driver.append(pcm(200)) == []
    events = driver.client("input_audio_buffer.commit")
    assert kinds(events) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    item_id = events[0]["item_id"]
    assert all(event["item"]["id"] == item_id for event in events[1:])
    assert driver.commands[-1] == CommitAudio(item_id, None)
    assert not any(isinstance(command, Respond) for command in driver.commands)


@pytest.mark.parametrize("ms", [0, 99])
def test_a_commit_needs_a_tenth_of_a_second(ms: int) -> None:
    driver = manual()
    driver.append(pcm(ms))
    (event,) = driver.client("input_audio_buffer.commit")
    assert event["error"]["code"] == "input_audio_buffer_commit_empty"
    assert "buffer too small" in event["error"]["message"]


def test_samples_may_be_split_between_appends() -> None:
    whole, split = manual(), manual()
    data = np.arange(-6000, 6000, dtype="<i2").tobytes()
    whole.append(data)
    for start in range(0, len(data), 777):
        split.append(data[start : start + 777])
    heard = [
        np.concatenate([c.samples for c in d.commands if isinstance(c, AppendAudio)])
        for d in (whole, split)
    ]
    np.testing.assert_array_equal(*heard)
    item_id = split.client("input_audio_buffer.commit")[0]["item_id"]
    (event,) = split.client("conversation.item.retrieve", item_id=item_id)
    assert base64.b64decode(event["item"]["content"][0]["audio"]) == data


@pytest.mark.parametrize("audio", ["not base64!", "AAA", "ÄÖ==", "A" * (21 << 20)])
def test_bad_audio_is_an_error(audio: str) -> None:
    driver = manual()
    (event,) = driver.client("input_audio_buffer.append", audio=audio, event_id="a1")
    assert event["error"]["param"] == "audio" and event["error"]["event_id"] == "a1"
    assert driver.append(pcm(100)) == []


def test_fifteen_mebibytes_can_be_appended_at_once() -> None:
    driver = manual()
    assert driver.append(bytes(15 << 20)) == []


def test_a_manual_buffer_is_bounded_and_a_detected_one_forgets() -> None:
    driver = manual(max_buffer_s=2)
    for _ in range(20):
        assert driver.append(pcm(100)) == []
    (event,) = driver.append(pcm(100))
    assert event["error"]["code"] == "input_audio_buffer_full"
    driver = Driver(max_buffer_s=2)
    driver.engine(SpeechStarted(0))
    for value in range(30):
        assert driver.append(pcm(100, value)) == []
    item_id = driver.engine(SpeechStopped(3000))[0]["item_id"]
    (event,) = driver.client("conversation.item.retrieve", item_id=item_id)
    kept = base64.b64decode(event["item"]["content"][0]["audio"])
    assert kept == b"".join(pcm(100, value) for value in range(10, 30))


def test_clear_forgets_the_buffer_but_not_the_time() -> None:
    driver = Driver()
    driver.append(pcm(500))
    assert kinds(driver.client("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert driver.commands[-1] == ClearAudio()
    (event,) = driver.client("input_audio_buffer.commit")
    assert event["error"]["code"] == "input_audio_buffer_commit_empty"
    driver.append(pcm(500, value=7))
    driver.engine(SpeechStarted(600))
    events = driver.engine(SpeechStopped(900))
    (event,) = driver.client("conversation.item.retrieve", item_id=events[0]["item_id"])
    assert base64.b64decode(event["item"]["content"][0]["audio"]) == pcm(300, value=7)


def test_a_detected_turn() -> None:
    driver = Driver()
    for value in range(10):
        driver.append(pcm(100, value))
    (event,) = driver.engine(SpeechStarted(200))
    assert (event["type"], event["audio_start_ms"]) == ("input_audio_buffer.speech_started", 200)
    events = driver.engine(SpeechStopped(800))
    assert kinds(events) == [
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    item_id = event["item_id"]
    assert {e["item_id"] for e in events[:2]} == {item_id} == {events[2]["item"]["id"]}
    assert CommitAudio(item_id, 800) in driver.commands
    (event,) = driver.client("conversation.item.retrieve", item_id=item_id)
    kept = base64.b64decode(event["item"]["content"][0]["audio"])
    assert kept == b"".join(pcm(100, value) for value in range(2, 8))


def test_without_create_response_nothing_is_answered() -> None:
    driver = Driver(
        audio={"input": {"turn_detection": {"create_response": False, "interrupt_response": False}}}
    )
    driver.append(pcm(500))
    driver.engine(SpeechStarted(0))
    events = driver.engine(SpeechStopped(400))
    assert kinds(events)[-1] == "conversation.item.done"


def test_a_commit_of_the_client_ends_a_detected_turn() -> None:
    driver = Driver()
    driver.append(pcm(500))
    (started,) = driver.engine(SpeechStarted(0))
    (committed, *_) = driver.client("input_audio_buffer.commit")
    assert committed["item_id"] == started["item_id"]
    assert driver.engine(SpeechStopped(480)) == []


def test_g711_input() -> None:
    driver = Driver(audio={"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}})
    driver.append(b"\xff" * 800)
    heard = sum(len(c.samples) for c in driver.commands if isinstance(c, AppendAudio))
    assert 1600 - 32 <= heard <= 1600
    assert kinds(driver.client("input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"


def test_the_format_may_change_under_way() -> None:
    driver = manual()
    driver.append(pcm(1000))
    driver.update(audio={"input": {"format": {"type": "audio/pcma"}}})
    driver.append(bytes(8000))
    item_id = driver.client("input_audio_buffer.commit")[0]["item_id"]
    (event,) = driver.client("conversation.item.retrieve", item_id=item_id)
    assert len(base64.b64decode(event["item"]["content"][0]["audio"])) == 16_000


def test_transcripts_are_in_the_item_before_they_are_announced() -> None:
    driver = Driver(audio={"input": {"transcription": {"model": "whisper-1"}}})
    driver.append(pcm(500))
    driver.engine(SpeechStarted(0))
    item_id = driver.engine(SpeechStopped(500))[0]["item_id"]
    events = driver.engine(
        UserTranscript(item_id, "he"),
        UserTranscript(item_id, "llo"),
        UserTranscript(item_id, "hello", final=True),
    )
    assert [event.get("delta") for event in events[:2]] == ["he", "llo"]
    done = events[2]
    assert done["transcript"] == "hello"
    assert done["usage"] == {"type": "duration", "seconds": 0.5}
    (event,) = driver.client("conversation.item.retrieve", item_id=item_id)
    assert event["item"]["content"][0]["transcript"] == "hello"
    assert driver.engine(UserTranscript(item_id, "again", final=True)) == []


def test_a_transcript_can_fail() -> None:
    driver = Driver(audio={"input": {"transcription": {"model": "whisper-1"}}})
    driver.append(pcm(500))
    driver.engine(SpeechStarted(0))
    item_id = driver.engine(SpeechStopped(500))[0]["item_id"]
    (event,) = driver.engine(UserTranscript(item_id, "", final=True, error="too noisy"))
    assert event["type"].endswith("transcription.failed")
    assert event["error"]["message"] == "too noisy"


def test_transcription_sessions_answer_nothing() -> None:
    driver = Driver("transcription")
    assert driver.log[0]["session"]["object"] == "realtime.transcription_session"
    assert "output" not in driver.log[0]["session"]["audio"]
    assert driver.session.settings.transcription is not None
    driver.append(pcm(500))
    driver.engine(SpeechStarted(0))
    events = driver.engine(SpeechStopped(500))
    assert kinds(events)[-1] == "conversation.item.done"
    item_id = events[0]["item_id"]
    assert driver.engine(UserTranscript(item_id, "a", final=True))[0]["transcript"] == "a"
    (event,) = driver.client("response.create")
    assert event["type"] == "error"


def test_a_session_can_become_a_transcription_session() -> None:
    driver = Driver()
    (event,) = driver.client("session.update", session={"type": "transcription"})
    assert event["session"]["type"] == "transcription"
    assert driver.session.settings.transcription is not None


# ---- items ---------------------------------------------------------------------------------------


def test_items_are_created_in_place() -> None:
    driver = Driver()
    driver.client("conversation.item.create", item=text_item(id="a"))
    driver.client("conversation.item.create", item=text_item(id="c"))
    events = driver.client("conversation.item.create", item=text_item(id="b"), previous_item_id="a")
    assert kinds(events) == ["conversation.item.added", "conversation.item.done"]
    assert events[0]["previous_item_id"] == "a"
    events = driver.client(
        "conversation.item.create", item=text_item(id="0"), previous_item_id="root"
    )
    assert events[0]["previous_item_id"] is None
    inserted = [command for command in driver.commands if isinstance(command, InsertItem)]
    assert [(c.item.item_id, c.previous_item_id) for c in inserted] == [
        ("a", None),
        ("c", "a"),
        ("b", "a"),
        ("0", None),
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"item": text_item(id="a")}, "item_create_duplicate_item_id"),
        (
            {"item": text_item(), "previous_item_id": "nobody"},
            "item_create_invalid_previous_item_id",
        ),
        ({"item": text_item(role="robot")}, "invalid_value"),
        ({"item": text_item(mood="good")}, "unknown_parameter"),
        ({"item": {"type": "message", "role": "user"}}, "missing_required_parameter"),
        (
            {"item": text_item(content=[{"type": "input_image", "image_url": "data:"}])},
            "unsupported_content_type",
        ),
        ({"item": text_item(content=[{"type": "output_text", "text": "x"}])}, "invalid_value"),
        ({"item": text_item(content=[{"type": "input_text"}])}, "missing_required_parameter"),
        ({"item": text_item(content=[{"type": "input_audio", "audio": "!"}])}, "invalid_value"),
        (
            {"item": {"type": "function_call", "name": "f", "arguments": "[1]"}},
            "invalid_value",
        ),
        ({}, "missing_required_parameter"),
    ],
)
def test_items_that_cannot_be_created(fields: dict[str, Any], code: str) -> None:
    driver = Driver()
    driver.client("conversation.item.create", item=text_item(id="a"))
    (event,) = driver.client("conversation.item.create", **fields)
    assert event["type"] == "error" and event["error"]["code"] == code


def test_spoken_items_reach_the_engine_at_its_rate() -> None:
    driver = Driver()
    content = [{"type": "input_audio", "audio": base64.b64encode(pcm(300)).decode()}]
    driver.client("conversation.item.create", item=text_item(id="a", content=content))
    command = driver.commands[-1]
    assert isinstance(command, InsertItem)
    samples = command.item.parts[0].samples
    assert samples is not None and len(samples) == 4800
    (event,) = driver.client("conversation.item.retrieve", item_id="a")
    assert base64.b64decode(event["item"]["content"][0]["audio"]) == pcm(300)


def test_items_are_deleted_and_missed() -> None:
    driver = Driver()
    driver.client("conversation.item.create", item=text_item(id="a"))
    (event,) = driver.client("conversation.item.delete", item_id="a")
    assert (event["type"], event["item_id"]) == ("conversation.item.deleted", "a")
    assert driver.commands[-1] == RemoveItem("a")
    (event,) = driver.client("conversation.item.retrieve", item_id="a", event_id="r")
    assert event["error"]["code"] == "item_retrieve_invalid_item_id"
    assert event["error"]["event_id"] == "r"
    (event,) = driver.client("conversation.item.delete", item_id="a")
    assert event["error"]["code"] == "item_delete_invalid_item_id"


def test_truncation() -> None:
    driver = Driver()
    driver.client("conversation.item.create", item=text_item(id="a"))
    respond = driver.ask()
    driver.speak(respond, ms=500)
    driver.finish(respond)

    def truncate(item_id: str, ms: int, index: int = 0) -> dict[str, Any]:
        fields = {"item_id": item_id, "content_index": index, "audio_end_ms": ms}
        return driver.client("conversation.item.truncate", **fields)[0]

    error = truncate(respond.item_id, 20_000)["error"]
    assert error["code"] == "invalid_value"
    assert error["message"] == "Audio content of 1000ms is already shorter than 20000ms"
    assert truncate("a", 0)["error"]["code"] == "invalid_value"
    assert truncate(respond.item_id, 0, index=1)["error"]["param"] == "content_index"
    assert truncate("nobody", 0)["error"]["code"] == "item_truncate_invalid_item_id"
    # A client whose clock runs a little ahead is not told off.
    assert truncate(respond.item_id, 1040)["audio_end_ms"] == 1000
    assert truncate(respond.item_id, 600)["audio_end_ms"] == 600
    (event,) = driver.client("conversation.item.retrieve", item_id=respond.item_id)
    assert event["item"]["content"][0]["transcript"] is None


def test_what_is_being_said_is_cut_when_it_ends() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond, ms=500)
    fields = {"item_id": respond.item_id, "content_index": 0}
    (event,) = driver.client("conversation.item.truncate", **fields, audio_end_ms=100)
    assert event["type"] == "conversation.item.truncated"
    assert not any(isinstance(command, TruncateItem) for command in driver.commands)
    # Agents truncate first and cancel then; neither may be an error.
    events = driver.client("response.cancel")
    assert events[-1]["response"]["output"][0]["content"][0]["transcript"] == "hello there "
    assert driver.commands[-2:] == [
        CancelResponse(respond.response_id, 0),
        TruncateItem(respond.item_id, 100),
    ]
    (event,) = driver.client("conversation.item.retrieve", item_id=respond.item_id)
    assert event["item"]["content"][0]["transcript"] is None and driver.errors() == []


# ---- idle timeout --------------------------------------------------------------------------------


def test_silence_behind_the_played_answer_triggers_the_next() -> None:
    detection = {"type": "server_vad", "idle_timeout_ms": 5000}
    driver = Driver(audio={"input": {"turn_detection": detection}})
    respond = driver.ask()
    driver.speak(respond, ms=1000)  # two seconds, sent at once
    driver.finish(respond)
    driver.append(pcm(6000))
    assert driver.wait(6.9) == []
    events = driver.wait(0.2)
    assert kinds(events) == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert (events[0]["audio_start_ms"], events[0]["audio_end_ms"]) == (0, 6000)
    driver.finish(driver.last_respond())
    driver.engine(SpeechStarted(6100))
    assert driver.wait(60) == []


# ---- what is no event ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ('{"type": NaN}', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("[]", "invalid_type"),
        ("{}", "missing_required_parameter"),
        ('{"type": 7}', "invalid_value"),
        ('{"type": "response.sing"}', "invalid_value"),
        ('{"type": "response.create", "volume": 3}', "unknown_parameter"),
        ('{"type": "response.create", "response": []}', "invalid_type"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": 7}', "invalid_type"),
        ('{"type": "response.cancel", "response_id": "\\ud800"}', "invalid_value"),
    ],
)
def test_what_is_no_event_is_an_error(message: str, code: str) -> None:
    driver = Driver()
    (event,) = driver.raw(message)
    assert event["type"] == "error" and event["error"]["code"] == code
    json.dumps(event).encode()


# ---- client secrets ------------------------------------------------------------------------------


def test_secrets_expire_and_are_bounded() -> None:
    now = [1000.0]
    secrets = ClientSecrets(lambda: now[0], max_secrets=2)
    config = default_config("realtime", model="nano", voice="a")
    secret = secrets.mint(config, 60)
    assert secret.value.startswith("ek_") and secret.expires_at == 1060
    assert secrets.session_of(secret.value) is config is secrets.session_of(secret.value)
    assert secrets.session_of(secret.value + "x") is None
    secrets.mint(config, 600)
    with pytest.raises(CapacityError):
        secrets.mint(config)
    now[0] = 1060.0
    assert secrets.session_of(secret.value) is None
    secrets.mint(config)
