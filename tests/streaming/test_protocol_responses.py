"""Responses on the wire: order, concatenation, cancellation, usage, function calls."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from stepaudio_streaming.events import (
    CancelResponse,
    OutputAudio,
    OutputFinished,
    OutputHeld,
    OutputStarted,
    OutputText,
    OutputToolCall,
    PromptTokens,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
)
from tests.streaming.sessions import Driver, kinds, pcm

AUDIO_ORDER = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


def of(driver: Driver, kind: str) -> list[dict[str, Any]]:
    return [event for event in driver.log if event["type"] == kind]


def test_a_spoken_answer_comes_in_the_order_of_the_protocol() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond)
    driver.finish(respond)
    assert kinds(driver.log[1:]) == AUDIO_ORDER
    assert len({event["event_id"] for event in driver.log}) == len(driver.log)
    done = driver.log[-1]["response"]
    assert done["status"] == "completed" and done["conversation_id"]
    (item,) = done["output"]
    deltas = "".join(e["delta"] for e in of(driver, "response.output_audio_transcript.delta"))
    assert deltas == "hello there " == item["content"][0]["transcript"]
    assert of(driver, "response.content_part.done")[0]["part"]["transcript"] == deltas
    assert item["content"][0]["type"] == "output_audio" and "audio" not in item["content"][0]
    assert of(driver, "response.content_part.added")[0]["part"]["type"] == "audio"
    sound = b"".join(
        base64.b64decode(e["delta"]) for e in of(driver, "response.output_audio.delta")
    )
    assert len(sound) == 2 * 24 * 800


def test_a_written_answer_has_text_parts() -> None:
    driver = Driver(output_modalities=["text"])
    respond = driver.ask()
    driver.engine(
        OutputStarted(respond.response_id, PromptTokens(4)),
        OutputText(respond.response_id, "yes, "),
        OutputText(respond.response_id, "of course"),
    )
    driver.finish(respond)
    assert kinds(driver.log[1:]) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert of(driver, "response.output_text.done")[0]["text"] == "yes, of course"
    content = driver.log[-1]["response"]["output"][0]["content"]
    assert content == [{"type": "output_text", "text": "yes, of course"}]


def test_usage_counts_prompt_and_answer() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond)
    driver.finish(respond)
    usage = driver.log[-1]["response"]["usage"]
    assert usage["input_tokens"] == 12 and usage["output_tokens"] == 2 + 20
    assert usage["total_tokens"] == 34
    assert usage["input_token_details"]["cached_tokens"] == 4
    assert usage["output_token_details"] == {"text_tokens": 2, "audio_tokens": 20}


def test_the_previous_item_is_the_same_in_added_and_done() -> None:
    driver = Driver()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    driver.client("conversation.item.create", item=item | {"id": "u1"})
    respond = driver.ask()
    driver.speak(respond)
    driver.finish(respond)
    added, done = of(driver, "conversation.item.added"), of(driver, "conversation.item.done")
    assert [e["previous_item_id"] for e in added] == [None, "u1"]
    assert [e["previous_item_id"] for e in done] == [None, "u1"]


def test_a_long_piece_of_audio_is_cut_into_small_frames() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.engine(OutputAudio(respond.response_id, np.zeros(24_000 * 45, np.float32)))
    deltas = of(driver, "response.output_audio.delta")
    assert max(len(event["delta"]) for event in deltas) < 200_000
    assert sum(len(base64.b64decode(event["delta"])) for event in deltas) == 2 * 24_000 * 45


@pytest.mark.parametrize("law", ["audio/pcmu", "audio/pcma"])
def test_g711_answers_have_eight_thousand_bytes_a_second(law: str) -> None:
    driver = Driver(audio={"output": {"format": {"type": law}}})
    respond = driver.ask()
    driver.speak(respond, ms=500)
    driver.finish(respond)
    deltas = of(driver, "response.output_audio.delta")
    assert sum(len(base64.b64decode(event["delta"])) for event in deltas) == 8000


def test_function_calls_carry_name_and_call_id_from_the_start() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.engine(
        OutputToolCall(respond.response_id, "weather", '{"city":"Ulm"}'),
        OutputToolCall(respond.response_id, "time", "{}"),
    )
    driver.finish(respond)
    first = of(driver, "conversation.item.added")[0]["item"]
    assert first["type"] == "function_call" and first["name"] == "weather" and first["call_id"]
    assert first["status"] == "in_progress" and first["arguments"] == ""
    done = of(driver, "response.function_call_arguments.done")
    assert [event["name"] for event in done] == ["weather", "time"]
    assert [event["output_index"] for event in done] == [0, 1]
    output = driver.log[-1]["response"]["output"]
    assert [item["status"] for item in output] == ["completed", "completed"]
    assert output[0]["arguments"] == '{"city":"Ulm"}'
    result = {"type": "function_call_output", "call_id": first["call_id"], "output": "rain"}
    driver.client("conversation.item.create", item=result)
    assert driver.errors() == []


def test_speech_before_a_function_call_is_an_item_of_its_own() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond, "one moment")
    driver.engine(OutputToolCall(respond.response_id, "weather", "{}"))
    driver.finish(respond)
    output = driver.log[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    assert [event["output_index"] for event in of(driver, "response.output_item.done")] == [0, 1]


def test_the_user_interrupts() -> None:
    driver = Driver()
    driver.append(pcm(1000))
    respond = driver.ask()
    driver.speak(respond, ms=400)
    driver.now = 0.5
    events = driver.engine(SpeechStarted(700))
    assert kinds(events) == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    response = events[-1]["response"]
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert response["output"][0]["status"] == "incomplete"
    assert driver.commands[-1] == CancelResponse(respond.response_id, 500)
    # Whatever the engine still says of that response is stale.
    driver.speak(respond)
    assert driver.finish(respond) == [] and driver.log[-1]["type"] == "response.done"
    driver.client(
        "conversation.item.truncate", item_id=respond.item_id, content_index=0, audio_end_ms=480
    )
    assert driver.log[-1]["type"] == "conversation.item.truncated"
    assert driver.commands[-1] == TruncateItem(respond.item_id, 480)
    assert driver.errors() == []


def test_an_interruption_before_the_first_sound_has_no_items() -> None:
    driver = Driver()
    driver.ask()
    events = driver.engine(SpeechStarted(0))
    assert kinds(events) == ["input_audio_buffer.speech_started", "response.done"]
    assert events[-1]["response"]["output"] == []
    assert events[-1]["response"]["usage"] is None


def test_speech_over_an_answer_that_is_still_played_cuts_it_to_the_estimate() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond, ms=1000)
    driver.finish(respond)
    driver.now = 1.25
    assert kinds(driver.engine(SpeechStarted(0))) == ["input_audio_buffer.speech_started"]
    assert driver.commands[-1] == TruncateItem(respond.item_id, 1250)
    num_commands = len(driver.commands)
    driver.engine(SpeechStopped(100), SpeechStarted(150))
    assert not any(isinstance(c, TruncateItem) for c in driver.commands[num_commands:])


def test_a_cough_delays_the_answer_and_loses_nothing() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond, "a")
    driver.engine(OutputHeld(True))
    num_events = len(driver.log)
    driver.engine(OutputText(respond.response_id, "b"))
    driver.finish(respond)
    assert len(driver.log) == num_events
    events = driver.engine(OutputHeld(False))
    assert kinds(events)[-1] == "response.done"
    assert events[-1]["response"]["output"][0]["content"][0]["transcript"] == "a b"
    assert driver.ask().response_id != respond.response_id


def test_an_engine_that_does_not_let_go_is_let_go() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.engine(OutputHeld(True))
    driver.speak(respond)
    assert kinds(driver.wait(2.0))[0] == "response.output_item.added"


def test_held_output_of_an_interrupted_answer_is_never_sent() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.engine(OutputHeld(True))
    driver.speak(respond)
    driver.engine(SpeechStarted(0))
    assert of(driver, "response.output_audio.delta") == []
    assert driver.log[-1]["response"]["status"] == "cancelled"


def test_the_client_cancels() -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond)
    events = driver.client("response.cancel")
    assert events[-1]["response"]["status_details"]["reason"] == "client_cancelled"
    (error,) = driver.client("response.cancel", event_id="c2")
    assert error["error"]["code"] == "response_cancel_not_active"
    assert error["error"]["message"].startswith("Cancellation failed")
    assert error["error"]["event_id"] == "c2"


def test_one_response_at_a_time() -> None:
    driver = Driver()
    driver.ask()
    (error,) = driver.client("response.create", event_id="again")
    assert error["error"]["code"] == "conversation_already_has_active_response"
    assert error["error"]["event_id"] == "again"


def test_an_answer_that_may_not_be_interrupted_is_followed_by_the_next() -> None:
    detection = {"type": "server_vad", "interrupt_response": False}
    driver = Driver(audio={"input": {"turn_detection": detection}})
    driver.append(pcm(1000))
    first = driver.ask()
    driver.engine(SpeechStarted(100), SpeechStopped(900))
    assert driver.last_respond() is first
    driver.speak(first)
    assert kinds(driver.finish(first))[-2:] == ["response.done", "response.created"]
    assert driver.last_respond() is not first and driver.errors() == []


def test_responses_beside_the_conversation() -> None:
    driver = Driver()
    inside = driver.ask()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}]}
    beside = driver.ask(
        conversation="none", output_modalities=["text"], input=[item], metadata={"topic": "x"}
    )
    assert beside.context is not None and beside.context[0].parts[0].text == "?"  # type: ignore[union-attr]
    num_items = len(of(driver, "conversation.item.added"))
    driver.engine(OutputText(beside.response_id, "sport"))
    events = driver.finish(beside)
    assert events[-1]["response"]["conversation_id"] is None
    assert events[-1]["response"]["metadata"] == {"topic": "x"}
    assert len(of(driver, "conversation.item.added")) == num_items
    driver.speak(inside)
    assert driver.finish(inside)[-1]["response"]["status"] == "completed"
    for _ in range(6):
        driver.client("response.create", response={"conversation": "none"})
    assert driver.errors()[-1]["code"] == "rate_limit_exceeded"


def test_items_of_the_conversation_can_be_referenced() -> None:
    driver = Driver()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}]}
    driver.client("conversation.item.create", item=item | {"id": "u1"})
    assert driver.ask(conversation="none", input=[{"type": "item_reference", "id": "u1"}]).context
    reference = {"type": "item_reference", "id": "nobody"}
    (error,) = driver.client("response.create", response={"input": [reference]})
    assert error["error"]["code"] == "item_reference_invalid_item_id"


@pytest.mark.parametrize(
    ("finished", "status", "details"),
    [
        (
            {"status": "incomplete", "reason": "max_output_tokens"},
            "incomplete",
            {"type": "incomplete", "reason": "max_output_tokens"},
        ),
        (
            {"status": "failed", "error": "the context is full"},
            "failed",
            {
                "type": "failed",
                "error": {
                    "type": "server_error",
                    "code": "server_error",
                    "message": "the context is full",
                },
            },
        ),
    ],
)
def test_limits_and_failures(finished: Any, status: str, details: Any) -> None:
    driver = Driver()
    respond = driver.ask()
    driver.speak(respond)
    response = driver.engine(OutputFinished(respond.response_id, **finished))[-1]["response"]
    assert response["status"] == status and response["status_details"] == details
    assert response["output"][0]["status"] == "incomplete"


def test_overrides_hold_for_one_response() -> None:
    driver = Driver(instructions="be brief")
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    respond = driver.ask(
        instructions="be long",
        output_modalities=["text"],
        tools=[tool],
        tool_choice={"type": "function", "name": "f"},
        max_output_tokens=12,
    )
    options = respond.options
    assert (options.instructions, options.modality, options.max_output_tokens) == (
        "be long",
        "text",
        12,
    )
    assert options.tool_choice == "=f"
    assert options.tools[0] == {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object"}},
    }
    driver.finish(respond)
    options = driver.ask().options
    assert (options.instructions, options.modality, options.tools) == ("be brief", "audio", ())


def test_the_voice_is_fixed_once_it_was_heard() -> None:
    driver = Driver()
    driver.update(audio={"output": {"voice": "emodb03"}})
    respond = driver.ask()
    driver.speak(respond)
    driver.finish(respond)
    driver.update(audio={"output": {"voice": "emodb03"}})
    assert driver.errors() == []
    driver.update(audio={"output": {"voice": "kathleen"}})
    assert driver.errors()[-1]["code"] == "cannot_update_voice"
