"""Conversations to prompts as the library makes them."""

from __future__ import annotations

import pytest

from stepaudio.errors import CapacityError
from stepaudio.tasks.step_audio import StepAudio
from stepaudio_streaming.engine.history import Entry, SpokenPhrase
from stepaudio_streaming.engine.mind import TranscriptMind, text_to_repeat
from stepaudio_streaming.engine.parts import Answer, SpeechWish
from stepaudio_streaming.events import ReplyOptions

TOOL = {"type": "function", "function": {"name": "clock", "parameters": {}}}
OTHER = {"type": "function", "function": {"name": "dog", "parameters": {}}}


@pytest.fixture
def mind(talker: StepAudio) -> TranscriptMind:
    return TranscriptMind(talker, None, max_tokens=512)


def prompt(mind: TranscriptMind, *entries: Entry, **options: object) -> list[int]:
    question = mind.ask(entries, ReplyOptions(modality="text", **options))  # type: ignore[arg-type]
    assert question.line is not None
    assert question.usage.text == len(question.line.prompt.ids)
    return list(question.line.prompt.ids)


def shown(talker: StepAudio, ids: list[int]) -> str:
    return talker.tokenizer.decode(ids, skip_special=False)


def test_prompts_are_those_of_the_library(talker: StepAudio, mind: TranscriptMind) -> None:
    dialogue = talker.dialogue(system="Be brief.", tools=[TOOL])
    how = {"instructions": "Be brief.", "tools": (TOOL,)}
    entries = [Entry("a", "user", "What is 2 & 3?")]
    dialogue.add_user(text="What is 2 & 3?")
    assert prompt(mind, *entries, **how) == dialogue.prompt().ids
    reply = dialogue.say(text="the dog")
    dialogue.add_user(text="more")
    entries.append(Entry("b", "user", "the dog"))
    entries.append(Entry("c", "assistant", reply.text, token_ids=tuple(reply.ids)))
    entries.append(Entry("d", "user", "more"))
    assert prompt(mind, *entries, **how) == dialogue.prompt().ids


def test_what_was_cut_off_is_not_in_the_prompt(talker: StepAudio, mind: TranscriptMind) -> None:
    phrase = SpokenPhrase("the quick brown fox", 0.0, 1000.0, length_ms=1000.0)
    answer = Entry(
        "a", "assistant", "the quick brown fox", token_ids=(1, 2), spoken=True, phrases=[phrase]
    )
    question = Entry("q", "user", "who")
    heard = Entry("a", "assistant", "the quick")
    answer.cut_ms = 550
    assert prompt(mind, question, answer, question) == prompt(mind, question, heard, question)
    answer.cut_ms = 0
    assert prompt(mind, question, answer, question) == prompt(mind, question, question)


def test_results_of_functions_follow_each_other(talker: StepAudio, mind: TranscriptMind) -> None:
    text = shown(
        talker,
        prompt(
            mind,
            Entry("q", "user", "who"),
            Entry("", "function_call", '{"a": 1}', name="clock"),
            Entry("x", "function_call_output", "It is 9:05."),
            Entry("y", "function_call_output", "2 dogs"),
            tools=(TOOL, OTHER),
        ),
    )
    assert "clock dog" in text
    assert "nine oh five" in text and "two dogs" in text and text.count("<|BOT|>input") == 1


@pytest.mark.parametrize(
    ("choice", "offered"), [("auto", "clock dog"), ("none", ""), ("=dog", "dog")]
)
def test_the_choice_of_functions(mind: TranscriptMind, choice: str, offered: str) -> None:
    options = ReplyOptions(modality="text", tools=(TOOL, OTHER), tool_choice=choice)
    assert mind.ask([Entry("q", "user", "who")], options).tools == tuple(offered.split())


def test_speech_that_was_not_understood_is_answered_without_the_model(
    talker: StepAudio, mind: TranscriptMind
) -> None:
    unclear = Entry("a", "user", "mumble", understood=False, num_audio=7)
    question = mind.ask([Entry("q", "user", "who"), unclear], ReplyOptions())
    assert question.line is None and question.usage.audio == 7
    assert question.canned == talker.config.dialogue.not_understood
    later = Entry("b", "user", "dog")
    assert prompt(mind, unclear, later) == prompt(mind, later)


def test_greetings(talker: StepAudio, mind: TranscriptMind) -> None:
    quoted = mind.ask([], ReplyOptions(instructions='Say exactly: "Welcome, friend."'))
    assert quoted.canned == "Welcome, friend." and quoted.line is None
    assert "hello" in shown(talker, prompt(mind, instructions="Greet the user."))
    assert text_to_repeat("Say hello to the user.") is None


def test_the_oldest_turns_are_left_out_where_the_context_is_full(
    talker: StepAudio, mind: TranscriptMind
) -> None:
    turns = [Entry(str(n), "user", f"the quick brown fox {'jumps ' * n}") for n in range(20)]
    ids = prompt(mind, *turns)
    assert len(ids) <= 512 - 64
    assert ids[-60:] == prompt(mind, turns[-1])[-60:]
    with pytest.raises(CapacityError, match="shorten"):
        prompt(mind, Entry("a", "user", "the lazy dog " * 200))


def test_answers_are_read_as_the_library_reads_them(
    talker: StepAudio, mind: TranscriptMind
) -> None:
    def read(text: str) -> tuple[str, tuple[tuple[str, str], ...], bool]:
        ids = talker.tokenizer.encode(text)
        answer = mind.read(mind.ask([], ReplyOptions(tools=(TOOL,))), ids)
        return answer.text, tuple((c.name, c.arguments) for c in answer.calls), answer.remembered

    call = '<tool_call>function\nclock\n{"zone": "utc"}</tool_call>'
    assert read("the dog") == ("the dog", (), True)
    assert read(call) == ("", (("clock", '{"zone": "utc"}'),), True)
    sorry = talker.config.dialogue.not_understood
    assert read("") == (sorry, (), False)
    assert read("\ufffd \ufffd?") == (sorry, (), False)
    assert read("<tool_call>function") == (sorry, (), False)


def test_a_model_without_a_voice_says_so(mind: TranscriptMind) -> None:
    with pytest.raises(Exception, match="cannot speak; ask for text"):
        mind.script("hello", SpeechWish("kathleen"))


def test_a_call_that_is_demanded_is_made_or_the_answer_fails(
    talker: StepAudio, mind: TranscriptMind
) -> None:
    needs = {"type": "object", "required": ["zone"]}
    strict = {"type": "function", "function": {"name": "clock", "parameters": needs}}

    def read(text: str, tool: dict[str, object]) -> Answer:
        options = ReplyOptions(tools=(tool, OTHER), tool_choice="required")
        question = mind.ask([Entry("q", "user", "who")], options)
        assert question.line is not None and question.stream is None
        allowed = question.line.params.constraint.allowed([])
        assert sum(map(len, allowed)) == 1  # the mark of a call
        return mind.read(question, talker.tokenizer.encode(text))

    call = '<tool_call>function\nclock\n{"zone": "utc"}</tool_call>'
    assert read(call, TOOL).calls[0].arguments == '{"zone": "utc"}'
    assert read("<tool_call>function\nclock\nnow", TOOL).calls[0].arguments == "{}"
    failed = read("<tool_call>function\nclock\nnow", strict)
    assert not failed.calls and "clock" in failed.error
