"""Nothing that a client sends or an engine yields breaks a session."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio_streaming.events import (
    Event,
    OutputAudio,
    OutputFinished,
    OutputHeld,
    OutputStarted,
    OutputText,
    OutputToolCall,
    PromptTokens,
    SpeechStarted,
    SpeechStopped,
    UserTranscript,
)
from stepaudio_streaming.protocol.client_events import _EVENTS
from tests.streaming.sessions import Driver

IDS = st.sampled_from(["item_0001", "item_0002", "item_0003", "resp_0001", "resp_0002", "x", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | IDS
NAMES = st.sampled_from(
    ["type", "id", "item", "item_id", "audio", "session", "response", "content", "role", "text",
     "content_index", "audio_end_ms", "previous_item_id", "input", "output", "format", "tools",
     "turn_detection", "transcription", "conversation", "metadata", "response_id", "event_id"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "input_text", "input_audio", "user",
     "assistant", "realtime", "transcription", "server_vad", "semantic_vad", "audio/pcmu", "none",
     "AAAA", "root", "text", "audio"]
)  # fmt: skip
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=12,
)
EVENTS = st.builds(
    lambda kind, fields: json.dumps({**fields, "type": kind}),
    st.sampled_from(sorted(_EVENTS)),
    st.dictionaries(NAMES, JSON, max_size=4),
)
MESSAGES = EVENTS | st.builds(json.dumps, JSON) | st.text()


@settings(max_examples=60)
@given(st.lists(MESSAGES, max_size=8))
def test_any_message_gets_an_answer_or_none_and_the_session_goes_on(messages: list[str]) -> None:
    driver = Driver()
    for message in messages:
        driver.raw(message)
    if driver.session.config.type == "realtime":
        driver.client("response.cancel")
        assert driver.client("response.create", response={})[0]["type"] == "response.created"


RESPONSES = st.sampled_from(["resp_0001", "resp_0002", "resp_0003", "other"])
ENGINE: st.SearchStrategy[Event] = st.one_of(
    st.builds(OutputHeld, st.booleans()),
    st.builds(SpeechStarted, st.integers(0, 3000)),
    st.builds(SpeechStopped, st.integers(0, 3000)),
    st.builds(UserTranscript, IDS, st.text(max_size=3), st.booleans()),
    st.builds(OutputStarted, RESPONSES, st.just(PromptTokens(1, 2))),
    st.builds(OutputText, RESPONSES, st.text(max_size=3)),
    st.builds(
        OutputAudio,
        RESPONSES,
        st.integers(0, 5000).map(lambda n: np.zeros(n, np.float32)),
    ),
    st.builds(OutputToolCall, RESPONSES, st.just("f"), st.just("{}")),
    st.builds(OutputFinished, RESPONSES, st.sampled_from(["completed", "incomplete", "failed"])),
)
GOOD_EVENTS = st.sampled_from(
    [
        json.dumps(event)
        for event in (
            {"type": "response.create"},
            {"type": "response.create", "response": {"conversation": "none"}},
            {"type": "response.cancel"},
            {"type": "input_audio_buffer.append", "audio": "AAAA" * 3200},
            {"type": "input_audio_buffer.commit"},
            {"type": "input_audio_buffer.clear"},
            {"type": "conversation.item.delete", "item_id": "item_0001"},
            {"type": "conversation.item.delete", "item_id": "item_0002"},
            {
                "type": "conversation.item.truncate",
                "item_id": "item_0001",
                "content_index": 0,
                "audio_end_ms": 1,
            },
            {
                "type": "session.update",
                "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}},
            },
            {
                "type": "session.update",
                "session": {
                    "type": "realtime",
                    "audio": {
                        "input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 500}}
                    },
                },
            },
        )
    ]
)
STEPS = st.lists(ENGINE | GOOD_EVENTS | st.floats(0, 3), max_size=40)


def check_lifecycles(log: list[dict[str, Any]]) -> None:
    """Every response begins once and ends once, and nothing of it comes before or behind."""
    running: set[str] = set()
    conversational: set[str] = set()
    for event in log:
        kind = event["type"]
        if kind == "response.created":
            response = event["response"]
            running.add(response["id"])
            if response["conversation_id"] is not None:
                assert not conversational, "two responses in the conversation"
                conversational.add(response["id"])
        elif kind == "response.done":
            response = event["response"]
            running.remove(response["id"])
            conversational.discard(response["id"])
            assert all(item["status"] != "in_progress" for item in response["output"])
        elif kind.startswith("response."):
            assert event["response_id"] in running


def check_concatenations(log: list[dict[str, Any]]) -> None:
    """The deltas of a part are its done value."""
    said: dict[str, str] = {}
    for event in log:
        if event["type"] in (
            "response.output_audio_transcript.delta",
            "response.output_text.delta",
        ):
            said[event["item_id"]] = said.get(event["item_id"], "") + event["delta"]
        elif event["type"] == "response.output_audio_transcript.done":
            assert event["transcript"] == said.get(event["item_id"], "")


@settings(max_examples=120)
@given(STEPS)
def test_no_order_of_events_breaks_the_life_of_a_response(steps: list[Any]) -> None:
    driver = Driver()
    for step in steps:
        if isinstance(step, str):
            driver.raw(step)
        elif isinstance(step, float):
            driver.wait(step)
        else:
            driver.engine(step)
    check_lifecycles(driver.log)
    check_concatenations(driver.log)
