"""Turn taking: server VAD, semantic VAD, manual turns, interruptions and coughs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio_streaming.events import OutputHeld, SpeechStarted, SpeechStopped, TurnDetection
from stepaudio_streaming.turn import FRAME_MS, TurnDetector, TurnEvent

SPEECH, SILENCE, UNSURE = 0.9, 0.05, 0.45


def run(
    detector: TurnDetector, *stretches: tuple[float, int], **how: Any
) -> list[tuple[int, TurnEvent]]:
    """Push stretches of (probability, frames); events with the frame that brought them."""
    events, frame = [], 0
    for probability, num_frames in stretches:
        for _ in range(num_frames):
            events += [(frame, event) for event in detector.push(probability, **how)]
            frame += 1
    return events


def test_a_turn_begins_with_its_padding_and_ends_behind_the_silence() -> None:
    detector = TurnDetector(TurnDetection(prefix_padding_ms=300, silence_duration_ms=500))
    events = run(detector, (SILENCE, 20), (SPEECH, 30), (SILENCE, 30))
    assert events == [
        (21, SpeechStarted(20 * FRAME_MS - 300)),
        (65, SpeechStopped(66 * FRAME_MS)),  # 16 silent frames are 512 ms
    ]


def test_padding_does_not_reach_before_the_start_or_into_the_last_turn() -> None:
    detector = TurnDetector(TurnDetection(prefix_padding_ms=1000, silence_duration_ms=96))
    events = run(detector, (SPEECH, 5), (SILENCE, 5), (SPEECH, 5))
    assert [event for _, event in events] == [
        SpeechStarted(0),
        SpeechStopped(8 * FRAME_MS),
        SpeechStarted(8 * FRAME_MS),
    ]


def test_one_frame_is_no_speech_and_a_short_gap_is_no_end_of_it() -> None:
    detector = TurnDetector(TurnDetection())
    assert run(detector, (SPEECH, 1), (SILENCE, 20)) == []
    assert len(run(detector, (SPEECH, 1), (SILENCE, 1), (SPEECH, 1))) == 1


def test_hysteresis_keeps_a_turn_alive() -> None:
    detector = TurnDetector(TurnDetection(silence_duration_ms=200))
    events = run(detector, (SPEECH, 5), (UNSURE, 100))
    assert [type(event) for _, event in events] == [SpeechStarted]


def test_speech_within_the_silence_begins_it_anew() -> None:
    detector = TurnDetector(TurnDetection(silence_duration_ms=200))
    events = run(detector, (SPEECH, 5), (SILENCE, 5), (SPEECH, 1), (SILENCE, 6), (SPEECH, 1))
    assert [type(event) for _, event in events] == [SpeechStarted]


def test_the_threshold_is_the_clients() -> None:
    assert run(TurnDetector(TurnDetection(threshold=0.95)), (SPEECH, 20)) == []
    assert run(TurnDetector(TurnDetection(threshold=0.3)), (UNSURE, 20)) != []


def test_an_interruption_holds_at_its_first_frame_and_is_sure_after_five() -> None:
    detector = TurnDetector(TurnDetection(prefix_padding_ms=0))
    events = run(detector, (SILENCE, 3), (SPEECH, 10), bot_speaking=True)
    assert events == [(3, OutputHeld(True)), (7, SpeechStarted(3 * FRAME_MS))]


def test_a_cough_holds_and_lets_go() -> None:
    detector = TurnDetector(TurnDetection())
    events = run(detector, (SPEECH, 3), (SILENCE, 10), bot_speaking=True)
    assert events == [(0, OutputHeld(True)), (4, OutputHeld(False))]
    assert not detector.is_speaking


def test_the_echo_of_the_assistant_does_not_hold() -> None:
    detector = TurnDetector(TurnDetection(threshold=0.5))
    assert run(detector, (0.6, 50), bot_speaking=True) == []
    assert run(detector, (0.6, 50), bot_speaking=False) != []


def test_held_output_stays_held_when_the_assistant_falls_silent_meanwhile() -> None:
    detector = TurnDetector(TurnDetection())
    assert detector.push(SPEECH, bot_speaking=True) == [OutputHeld(True)]
    assert run(detector, (SILENCE, 2)) == [(1, OutputHeld(False))]


def test_without_interruptions_nothing_is_held() -> None:
    detector = TurnDetector(TurnDetection(interrupt=False))
    events = run(detector, (SPEECH, 10), bot_speaking=True)
    assert [type(event) for _, event in events] == [SpeechStarted]


def test_manual_turns_detect_nothing() -> None:
    assert run(TurnDetector(None), (SPEECH, 50), (SILENCE, 50)) == []


@pytest.mark.parametrize(
    ("eagerness", "frames"), [("low", 250), ("medium", 125), ("high", 63), ("auto", 125)]
)
def test_a_semantic_turn_waits_for_whoever_has_not_finished(eagerness: Any, frames: int) -> None:
    detector = TurnDetector(TurnDetection(kind="semantic_vad", eagerness=eagerness))
    run(detector, (SPEECH, 10))
    events = run(detector, (SILENCE, 300), score=0.1)
    assert [(f + 1, type(event)) for f, event in events] == [(frames, SpeechStopped)]


def test_a_semantic_turn_ends_soon_for_whoever_has_finished() -> None:
    detector = TurnDetector(TurnDetection(kind="semantic_vad", eagerness="medium"))
    run(detector, (SPEECH, 10))
    assert not detector.wants_score
    run(detector, (SILENCE, 4))
    assert detector.wants_score
    assert [type(event) for event in detector.push(SILENCE, score=0.7)] == [SpeechStopped]
    assert not detector.wants_score


def test_a_semantic_turn_without_a_model_falls_back_to_a_silence() -> None:
    detector = TurnDetector(TurnDetection(kind="semantic_vad", eagerness="high"))
    ((frame, _),) = run(detector, (SPEECH, 10), (SILENCE, 100))[1:]
    assert (frame + 1 - 10) * FRAME_MS == 512


def test_clearing_ends_a_turn_without_an_event_and_lets_go() -> None:
    detector = TurnDetector(TurnDetection(prefix_padding_ms=5000))
    run(detector, (SPEECH, 10))
    assert detector.clear() == [] and not detector.is_speaking
    assert run(detector, (SPEECH, 2)) == [(1, SpeechStarted(10 * FRAME_MS))]
    detector.clear()
    detector.push(SPEECH, bot_speaking=True)
    assert detector.clear() == [OutputHeld(False)]


def test_the_client_may_change_its_mind_during_a_turn() -> None:
    detector = TurnDetector(TurnDetection(silence_duration_ms=5000))
    run(detector, (SPEECH, 10))
    assert detector.configure(TurnDetection(silence_duration_ms=96)) == []
    assert [type(e) for _, e in run(detector, (SILENCE, 3))] == [SpeechStopped]
    run(detector, (SPEECH, 10))
    detector.configure(None)
    assert run(detector, (SILENCE, 50)) == []


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.none() | st.floats(0, 1)), max_size=200)
)
def test_turns_alternate_and_every_hold_ends(frames: list[tuple[float, bool, Any]]) -> None:
    for kind in ("server_vad", "semantic_vad"):
        detector = TurnDetector(TurnDetection(kind=kind, silence_duration_ms=64))  # type: ignore[arg-type]
        frames = [*frames, *[(0.0, False, None)] * 300]
        events = [
            event
            for probability, bot, score in frames
            for event in detector.push(probability, bot_speaking=bot, score=score)
        ]
        speaking = held = False
        last_end = 0
        for event in events:
            if isinstance(event, OutputHeld):
                assert event.held != held and not speaking
                held = event.held
            elif isinstance(event, SpeechStarted):
                assert not speaking and event.audio_ms >= last_end
                speaking, held = True, False
            else:
                assert speaking
                speaking, last_end = False, event.audio_ms
        assert not speaking and not held
