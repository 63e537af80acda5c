"""Sessions of the engine under virtual time, with a scripted model."""

from __future__ import annotations

import numpy as np
import pytest

from stepaudio.errors import CapacityError
from stepaudio_streaming.engine.parts import Call, SpeechWish
from stepaudio_streaming.engine.session import Say
from stepaudio_streaming.events import (
    AppendAudio,
    CancelResponse,
    ClearAudio,
    CommitAudio,
    ContextItem,
    ContextPart,
    InsertItem,
    OutputAudio,
    OutputFinished,
    OutputHeld,
    OutputStarted,
    OutputText,
    OutputToolCall,
    RemoveItem,
    ReplyOptions,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
    TurnDetection,
    UserTranscript,
)
from tests.streaming.engine.fakes import MANUAL, VAD, WRITER, Clock, ScriptedModel, User, settings

LOUD = np.full(16_000, 0.3, np.float32)


def text_item(item_id: str, text: str, kind: str = "user") -> ContextItem:
    return ContextItem(item_id=item_id, kind=kind, parts=(ContextPart(text),))  # type: ignore[arg-type]


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def clock(model: ScriptedModel) -> Clock:
    return Clock(model)


def asked(user: User, text: str = "one two three") -> None:
    """Write something and get an answer begun."""
    user.send(InsertItem(text_item("q", text), None))
    user.ask("r")


# ---- turns -------------------------------------------------------------------------------------


def test_speech_in_speech_out(clock: Clock) -> None:
    user = clock.open(VAD)
    user.sound(400, 0.0)
    user.sound(1000)
    user.sound(6000, 0.0)
    kinds = [type(event) for event in user.events]
    assert kinds[:2] == [SpeechStarted, SpeechStopped]
    assert user.of(UserTranscript)[-1] == UserTranscript("turn-1", "level 30", final=True)
    assert user.text("r1") == "30 level"
    assert len(user.audio("r1")) == 100 * 960
    assert user.finished("r1") == OutputFinished("r1")
    assert kinds.index(OutputStarted) < kinds.index(OutputText) < kinds.index(OutputAudio)
    usage = user.of(OutputStarted)[0].prompt
    assert usage.text == 10 and usage.audio > 25
    assert sum(e.num_tokens for e in user.of(OutputText)) == 2
    assert sum(e.num_tokens for e in user.of(OutputAudio)) == 100


def test_what_was_said_is_understood_before_the_turn_is_over(clock: Clock) -> None:
    user = clock.open(VAD)
    user.sound(1000)
    user.sound(400, 0.0)
    assert clock.model.num_heard == 1 and not user.of(SpeechStopped)
    user.sound(400, 0.0)
    assert user.of(SpeechStopped) and clock.model.num_heard == 1
    assert user.of(UserTranscript)[-1].text == "level 30"


def test_a_turn_that_goes_on_is_understood_again(clock: Clock) -> None:
    user = clock.open(VAD)
    user.sound(500)
    user.sound(300, 0.0)
    user.sound(500, 0.6)
    user.sound(800, 0.0)
    assert clock.model.num_heard == 2
    assert user.of(UserTranscript)[-1].text == "level 60"


def test_a_turn_keeps_its_sound_when_the_next_one_begins_before_it_is_committed(
    clock: Clock,
) -> None:
    # Clients may send faster than anybody speaks: both are in one piece of sound.
    user = clock.open(VAD)
    user.answers_turns = False
    quiet = np.zeros(9600, np.float32)
    user.send(AppendAudio(np.concatenate([LOUD, quiet, 2 * LOUD, quiet])))
    first, second = user.of(SpeechStopped)
    user.send(CommitAudio("a", first.audio_ms), CommitAudio("b", second.audio_ms))
    clock.settle()
    texts = {e.item_id: e.text for e in user.of(UserTranscript) if e.final}
    assert texts == {"a": "level 30", "b": "level 60"}


def test_semantic_turns_end_sooner_behind_a_finished_sentence(clock: Clock) -> None:
    user = clock.open(settings(TurnDetection(kind="semantic_vad")))
    user.sound(1000)
    user.sound(3000, 0.0)
    (stopped,) = user.of(SpeechStopped)
    assert 1000 < stopped.audio_ms < 1400


def test_manual_turns(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(AppendAudio(LOUD), CommitAudio("a"))
    user.send(AppendAudio(0 * LOUD), ClearAudio(), AppendAudio(2 * LOUD), CommitAudio("b"))
    clock.settle()
    texts = {e.item_id: e.text for e in user.of(UserTranscript) if e.final}
    assert texts == {"a": "level 30", "b": "level 60"}
    assert not user.of(SpeechStarted)


def test_transcripts_come_piece_by_piece(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(AppendAudio(LOUD), CommitAudio("a"))
    clock.settle()
    assert [(e.text, e.final) for e in user.of(UserTranscript)] == [
        ("level", False),
        (" 30", False),
        ("level 30", True),
    ]


def test_a_session_without_transcription_tells_none(clock: Clock) -> None:
    user = clock.open(settings(transcribe=False))
    user.send(AppendAudio(LOUD), CommitAudio("a"))
    user.ask("r")
    clock.settle()
    assert not user.of(UserTranscript)
    assert user.text("r") == "30 level"


def test_silence_is_not_understood_and_leaves_no_trace(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(AppendAudio(0 * LOUD), CommitAudio("a"))
    user.ask("r", WRITER)
    clock.settle()
    assert user.text("r") == "pardon"
    user.send(InsertItem(text_item("b", "go on"), "a"))
    user.ask("r2", WRITER)
    clock.settle()
    assert clock.model.asked[-1] == ["user: go on"]


def test_sound_that_cannot_be_understood_is_an_error_of_its_item(clock: Clock) -> None:
    clock.model.fails.add("hear")
    user = clock.open(MANUAL)
    user.send(AppendAudio(LOUD), CommitAudio("a"))
    user.ask("r", WRITER)
    clock.settle()
    assert user.of(UserTranscript) == [UserTranscript("a", "", final=True, error="too loud")]
    assert user.text("r") == "pardon"


# ---- several sessions --------------------------------------------------------------------------


def test_sessions_advance_together_and_never_hear_each_other(clock: Clock) -> None:
    users = [clock.open(VAD) for _ in range(3)]
    for index, user in enumerate(users):
        user.send(InsertItem(text_item("q", f"my number {index}"), None))
        user.ask("r")
    clock.run(8.0)
    assert max(map(len, clock.model.decoded)) == 3
    assert max(map(len, clock.model.spoken)) > 1
    levels = set()
    for index, user in enumerate(users):
        assert user.text("r") == f"{index} number my"
        sound = user.audio("r")
        assert len(sound) == 100 * 960 and np.ptp(sound) == 0
        levels.add(float(sound[0]))
    assert len(levels) == 3


def test_sound_is_made_ahead_only_to_a_bound(clock: Clock) -> None:
    user = clock.open(VAD)
    clock.model.phrase_codes = 500
    asked(user)
    plan = clock.settle()
    made_ms = sum(len(e.samples) for e in user.of(OutputAudio)) / 24
    assert 1600 <= made_ms <= 2400
    assert plan.wake_at is not None and plan.wake_at > clock.now
    clock.run(10.0)
    made_ms = sum(len(e.samples) for e in user.of(OutputAudio)) / 24
    assert 11_600 <= made_ms <= 12_500


def test_the_first_piece_is_small_and_the_later_ones_larger(clock: Clock) -> None:
    user = clock.open(VAD)
    asked(user)
    clock.settle()
    sizes = [len(e.samples) // 960 for e in user.of(OutputAudio)]
    assert sizes[:3] == [4, 10, 10]


def test_more_answers_than_slots_wait_for_each_other() -> None:
    clock = Clock(ScriptedModel(num_slots=2))
    users = [clock.open(VAD) for _ in range(4)]
    for user in users:
        asked(user)
    clock.run(30.0)
    assert all(user.finished("r") for user in users)
    assert clock.core.num_free_slots == 2 and not clock.model.held and not clock.model.voices


def test_understanding_waits_for_speech_but_not_for_ever(clock: Clock) -> None:
    speaker, talker = clock.open(VAD), clock.open(MANUAL)
    asked(speaker)
    while not speaker.of(OutputAudio):
        clock.core.step(clock.now)
    talker.send(AppendAudio(LOUD), CommitAudio("a"))
    clock.core.step(clock.now)
    assert not talker.of(UserTranscript)  # the speaker has 160 ms ahead
    clock.now += 0.31
    clock.core.step(clock.now)
    assert talker.of(UserTranscript)


def test_a_slow_reader_blocks_only_itself(clock: Clock) -> None:
    slow, fast = clock.open(VAD), clock.open(VAD)
    clock.core.block(slow.number, True)
    for user in (slow, fast):
        asked(user)
    clock.run(8.0)
    assert fast.finished("r") and not slow.of(OutputText)
    clock.core.block(slow.number, False)
    clock.run(8.0)
    assert slow.finished("r") and len(slow.audio("r")) == 100 * 960


def test_too_many_sessions_are_refused() -> None:
    clock = Clock(ScriptedModel(), max_sessions=1)
    user = clock.open()
    with pytest.raises(CapacityError, match="all 1 sessions"):
        clock.open()
    clock.core.close(user.number)
    clock.open()


def test_closing_frees_everything_at_once(clock: Clock) -> None:
    user = clock.open(VAD)
    asked(user)
    clock.settle()
    user.send(AppendAudio(LOUD), CommitAudio("a"))
    assert clock.model.held and clock.model.voices
    clock.core.close(user.number)
    assert not clock.model.held and not clock.model.voices
    assert clock.core.num_free_slots == 8 and clock.core.num_sessions == 0
    assert clock.settle().wake_at is None


# ---- interruptions -----------------------------------------------------------------------------


def speaking(clock: Clock, answer: str = "alpha beta gamma delta") -> User:
    """A user who hears an answer of 4 s."""
    clock.model.answers = [answer]
    user = clock.open(VAD)
    user.sound(200, 0.0)
    asked(user)
    return user


def said_next(clock: Clock, user: User) -> list[str]:
    """The conversation as the model sees it in the next answer."""
    user.send(InsertItem(text_item("next", "and now"), "q"))
    user.ask("next", WRITER)
    clock.settle()
    return [line for line in clock.model.asked[-1] if line.startswith("assistant")]


def test_an_interruption_stops_at_once_and_keeps_what_was_heard(clock: Clock) -> None:
    user = speaking(clock)
    user.sound(2000, 0.0)
    user.sound(400)
    assert user.of(SpeechStarted)
    started_at = user.at[user.events.index(user.of(SpeechStarted)[0])]
    assert all(
        at <= started_at
        for event, at in zip(user.events, user.at, strict=True)
        if isinstance(event, OutputAudio)
    )
    assert not clock.model.held and not clock.model.voices
    assert said_next(clock, user) == ["assistant: alpha beta"]


def test_a_truncation_by_the_client_counts_more_than_the_estimate(clock: Clock) -> None:
    user = speaking(clock)
    user.sound(2000, 0.0)
    user.sound(400)
    user.send(TruncateItem("item-r", 1100))
    assert said_next(clock, user) == ["assistant: alpha"]


def test_what_was_never_heard_was_never_said(clock: Clock) -> None:
    user = speaking(clock)
    user.send(CancelResponse("r", 0))
    assert not clock.model.held
    assert said_next(clock, user) == []


def test_an_interruption_before_the_first_sound(clock: Clock) -> None:
    user = speaking(clock)
    while not clock.model.voices:
        clock.core.step(clock.now)
    assert not user.of(OutputAudio)
    user.send(CancelResponse("r", 0))
    assert said_next(clock, user) == [] and not user.of(OutputAudio)


def test_an_interruption_in_the_last_piece(clock: Clock) -> None:
    user = speaking(clock)
    clock.run(3.2)
    assert user.finished("r")  # all was made, but 0.8 s are still to be heard
    user.send(CancelResponse("r", user.heard_ms("r")))
    assert said_next(clock, user) == ["assistant: alpha beta gamma"]


def test_a_complete_answer_may_be_cut_afterwards(clock: Clock) -> None:
    user = speaking(clock)
    clock.run(6.0)
    user.send(TruncateItem("item-r", 1700))
    assert said_next(clock, user) == ["assistant: alpha"]
    user.send(TruncateItem("item-r", 99_999))
    user.ask("again", WRITER)
    clock.settle()
    assert "assistant: alpha beta gamma delta" in clock.model.asked[-1]


def test_two_interruptions_within_100_ms(clock: Clock) -> None:
    user = speaking(clock)
    clock.run(1.0)
    user.send(CancelResponse("r", 900), InsertItem(text_item("q2", "stop it"), "item-r"))
    user.ask("second")
    clock.run(0.05)
    user.send(CancelResponse("second", 0), InsertItem(text_item("q3", "no stop"), "item-second"))
    user.ask("third")
    clock.run(12.0)
    assert not user.finished("r") and not user.finished("second") and user.finished("third")
    assert user.text("third") == "stop no" and len(user.audio("third")) == 100 * 960
    assert clock.model.asked[-1] == ["user: one two three", "user: stop it", "user: no stop"]
    assert not clock.model.held and clock.core.num_free_slots == 8


def test_a_cough_holds_the_answer_and_lets_it_go_on(clock: Clock) -> None:
    user = speaking(clock)
    user.sound(1000, 0.0)
    decoded = len(clock.model.decoded)
    user.sound(60)
    assert user.of(OutputHeld) == [OutputHeld(True)]
    held = len(clock.model.decoded)
    user.sound(40, 0.0)
    assert len(clock.model.decoded) - held == 0 and held >= decoded
    user.sound(5000, 0.0)
    assert user.of(OutputHeld) == [OutputHeld(True), OutputHeld(False)]
    assert not user.of(SpeechStarted)
    assert user.finished("r") and len(user.audio("r")) == 100 * 960


def test_an_interruption_while_the_client_runs_a_function(clock: Clock) -> None:
    user = clock.open(VAD)
    clock.model.calls = [Call("clock", "{}")]
    user.ask("r", ReplyOptions(tools=({"name": "clock"},)))
    clock.settle()
    assert user.finished("r")
    user.sound(600)
    user.sound(800, 0.0)
    assert user.of(SpeechStopped) and user.text("r1") == "30 level"


# ---- answers -----------------------------------------------------------------------------------


def test_text_is_told_as_it_is_written(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(InsertItem(text_item("q", "one two three"), None))
    user.ask("r", WRITER)
    clock.settle()
    assert [e.text for e in user.of(OutputText)] == ["w0 ", "w1 ", "w2 ", "end"]
    assert not user.of(OutputAudio) and user.finished("r") == OutputFinished("r")


def test_phrases_follow_each_other_with_pauses(clock: Clock) -> None:
    user = clock.open(MANUAL)
    clock.model.phrase_codes = 20
    clock.model.answers = ["first part, second part"]
    asked(user)
    clock.settle()
    assert user.text("r") == "first part second part"
    assert len(user.audio("r")) == 40 * 960 + 4800


def test_function_calls_go_to_the_client_and_results_come_back(clock: Clock) -> None:
    user = clock.open(MANUAL)
    clock.model.calls = [Call("weather", '{"city": "Oslo"}')]
    tools = ({"name": "weather"},)
    user.send(InsertItem(text_item("q", "rain in oslo"), None))
    user.ask("r", ReplyOptions(modality="text", tools=tools))
    clock.settle()
    assert user.of(OutputToolCall) == [OutputToolCall("r", "weather", '{"city": "Oslo"}', 3)]
    assert not user.of(OutputText)
    user.send(InsertItem(text_item("out", "rain", "function_call_output"), "q"))
    user.ask("r2", WRITER)
    clock.settle()
    assert clock.model.asked[-1] == ["user: rain in oslo", "function_call_output: rain"]


def test_answers_outside_of_the_conversation_leave_no_trace(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(InsertItem(text_item("q", "inside"), None))
    sound = ContextItem(item_id="s", kind="user", parts=(ContextPart(samples=2 * LOUD),))
    user.ask("side", WRITER, context=(text_item("x", "outside"), "q", sound))
    clock.settle()
    assert clock.model.asked[-1] == ["user: outside", "user: inside", "user: level 60"]
    user.ask("r", WRITER)
    clock.settle()
    assert clock.model.asked[-1] == ["user: inside"]


def test_both_kinds_of_answers_at_once(clock: Clock) -> None:
    user = clock.open(MANUAL)
    asked(user)
    user.ask("side", WRITER, context=(text_item("x", "outside"),))
    clock.run(8.0)
    assert user.finished("side") and user.finished("r")
    assert user.text("r") == "three two one"


def test_answers_wait_until_sound_in_an_item_is_understood(clock: Clock) -> None:
    user = clock.open(MANUAL)
    part = (ContextPart("behold"), ContextPart(samples=LOUD))
    user.send(InsertItem(ContextItem(item_id="q", kind="user", parts=part), None))
    user.ask("r", WRITER)
    clock.settle()
    assert clock.model.asked == [["user: level 30 behold"]]


def test_removed_items_are_forgotten(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(InsertItem(text_item("a", "first"), None))
    user.send(InsertItem(text_item("b", "second"), "a"), InsertItem(text_item("c", "zero"), None))
    user.send(RemoveItem("a"))
    user.ask("r", WRITER)
    clock.settle()
    assert clock.model.asked == [["user: zero", "user: second"]]


def test_a_limit_of_tokens_cuts_the_answer_off(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(InsertItem(text_item("q", "one two"), None))
    user.ask("r", ReplyOptions(voice="v", max_output_tokens=32))
    clock.settle()
    assert user.finished("r") == OutputFinished("r", "incomplete", "max_output_tokens")
    assert len(user.audio("r")) == 30 * 960
    assert not clock.model.held and not clock.model.voices


def test_texts_are_spoken_without_a_conversation(clock: Clock) -> None:
    user = clock.open(MANUAL)
    clock.model.phrase_codes = 20
    user.send(Say("s", "read me", SpeechWish("kathleen")))
    clock.settle()
    assert len(user.audio("s")) == 20 * 960 and user.finished("s") == OutputFinished("s")
    assert not user.of(OutputStarted) and not clock.model.asked


def test_what_nobody_listens_to_is_made_at_once(clock: Clock) -> None:
    user = clock.open(MANUAL)
    clock.model.phrase_codes = 500
    user.send(Say("s", "read me", SpeechWish("kathleen")))
    user.ask("side", ReplyOptions(voice="v"), context=(text_item("x", "outside"),))
    clock.settle()
    assert user.finished("s") and user.finished("side")
    assert len(user.audio("s")) == len(user.audio("side")) == 500 * 960


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["begin", "decode", "speak"])
def test_a_step_that_fails_ends_its_answers_only(
    clock: Clock, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    user = clock.open(VAD)
    clock.model.fails.add(where)
    asked(user)
    clock.settle()
    finished = user.finished("r")
    assert finished is not None and finished.status == "failed" and finished.error
    assert "memory" not in finished.error  # nothing of the inside
    assert not clock.model.held and not clock.model.voices
    clock.model.fails.clear()
    user.ask("r2", WRITER)
    clock.settle()
    assert user.finished("r2") == OutputFinished("r2")


def test_a_text_that_cannot_be_spoken_fails_its_answer(clock: Clock) -> None:
    user = clock.open(MANUAL)
    clock.model.answers = ["unspeakable"]
    asked(user)
    clock.settle()
    assert user.finished("r") == OutputFinished("r", "failed", error="nothing can be said")


def test_cancelling_what_is_unknown_does_nothing(clock: Clock) -> None:
    user = clock.open(MANUAL)
    user.send(CancelResponse("nothing", 0), TruncateItem("nothing", 1), RemoveItem("nothing"))
    assert user.events == []
