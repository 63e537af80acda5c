"""Conversations: history as ids, rebuilt history, tools, thoughts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stepaudio.errors import CapacityError, ToolError
from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.dialogue import Dialogue
from stepaudio.tasks.step_audio import StepAudio
from tests.unit.tasks.conftest import CALLS, CODES, SPEECH, TEXT, THOUGHT, Scripted

SECOND = torch.randn(16_000, generator=torch.Generator().manual_seed(1)) * 0.1
SEARCH = {"type": "function", "function": {"name": "search", "parameters": {}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {}}}


def written(model: StepAudio, dialogue: Dialogue) -> str:
    """The conversation as the model sees it, without the patches of audio."""
    ids = [i for i in dialogue.prompt().ids if i != model.tokenizer.vocab.audio_patch]
    return model.tokenizer.decode(ids, skip_special=False)


def test_history_keeps_the_generated_ids(scripted: Scripted) -> None:
    model = scripted(TEXT, SPEECH)
    dialogue = model.dialogue(speech=True, system="Be kind.")
    first = dialogue.say(audio=SECOND)
    second = dialogue.say(text="And?", audio=SECOND)
    spoken = "".join(SPEECH[:-1]).replace("Ġ", " ")
    audio = "<audio_start><audio_end>"
    assert written(model, dialogue) == (
        "<|BOT|>system\nBe kind.<|EOT|>"
        f"<|BOT|>human\n{audio}<|EOT|><|BOT|>assistant\n{spoken}<|EOT|>"
        f"<|BOT|>human\n{audio}And?<|EOT|><|BOT|>assistant\n{spoken}<|EOT|>"
        "<|BOT|>assistant\n<tts_start>"
    )
    assert first.ids == second.ids
    ids = dialogue.prompt().ids
    place = ids.index(model.tokenizer.vocab.tts_start) + 1
    assert tuple(ids[place : place + len(first.ids)]) == first.ids


def test_history_is_rebuilt_from_text_and_codes(scripted: Scripted) -> None:
    model = scripted(TEXT, SPEECH)
    original, rebuilt = model.dialogue(speech=True), model.dialogue(speech=True)
    reply = original.say(text="Hi")
    rebuilt.add_user(text="Hi")
    rebuilt.add_answer(reply.text, reply.codes)
    # The tokenizer has no merge for the script's words, so that it spells them.
    spelled = [model.tokenizer.encode(reply.text)]
    ids = rebuilt.prompt().ids
    text, codes = model.tokenizer.vocab.split_ids(ids[ids.index(model.tokenizer.vocab.tts_start) :])
    assert list(codes) == CODES
    assert text[: len(spelled[0])] == spelled[0]
    with pytest.raises(ValueError, match="audio codes go from"):
        rebuilt.add_answer("x", [7000])
    written_answer = model.dialogue()
    written_answer.add_user(text="Hi")
    written_answer.add_answer("Yes.")
    assert written(model, written_answer).endswith(
        "<|BOT|>assistant\nYes.<|EOT|><|BOT|>assistant\n"
    )


def test_speech_that_was_cut_off_is_closed(scripted: Scripted) -> None:
    model = scripted(TEXT, SPEECH)
    dialogue = model.dialogue(speech=True)
    reply = dialogue.say(text="Hi", params=SamplingParams(max_new_tokens=3))
    assert reply.finish_reason == "length"
    assert "Hello<audio_10><audio_11><tts_end><|EOT|>" in written(model, dialogue)


def test_a_turn_that_fails_leaves_no_trace(scripted: Scripted) -> None:
    model = scripted(TEXT, text={"max_position_embeddings": 200})
    dialogue = model.dialogue()
    dialogue.say(text="Hi")
    before = written(model, dialogue)
    with pytest.raises(CapacityError):
        dialogue.say(audio=SECOND.repeat(20))
    with pytest.raises(ValueError, match="text or audio"):
        dialogue.say()
    assert written(model, dialogue) == before
    assert dialogue.say(text="Hi").text == "All fine"


def test_several_tool_calls_and_their_results(scripted: Scripted) -> None:
    model = scripted(CALLS)
    dialogue = model.dialogue(speech=True, system="小跃", tools=[SEARCH, CLOCK])
    reply = dialogue.say(text="Rain?")
    assert [(call.name, dict(call.arguments)) for call in reply.tool_calls] == [
        ("search", {"query": "rain"}),
        ("clock", {}),
    ]
    assert reply.text == "Wait"
    assert reply.tool_error is None
    with pytest.raises(ToolError, match="1 results were given, but the last answer has 2"):
        dialogue.answer_tools(["dry"])
    again = dialogue.answer_tools(["dry", "noon"])
    assert again.tool_calls == reply.tool_calls
    called = "".join(CALLS[:-1]).replace("Ġ", " ").replace("Ċ", "\n")
    assert (
        f"<|BOT|>human\nRain?<|EOT|><|BOT|>assistant\n{called}<|EOT|><|BOT|>input\ndry\nnoon"
        f"{model.processor.prompts.tool_summary}<|EOT|><|BOT|>assistant\n{called}<|EOT|>"
    ) in written(model, dialogue)
    assert "<|BOT|>tool_json_schemas\n[{" in written(model, dialogue)


def test_calls_of_unknown_tools_are_dropped(scripted: Scripted) -> None:
    model = scripted(CALLS)
    reply = model.dialogue(speech=True, tools=[CLOCK]).say(text="Rain?")
    assert [call.name for call in reply.tool_calls] == ["clock"]
    with pytest.raises(ToolError, match="function with a name"):
        model.dialogue(speech=True, tools=[{"type": "function"}])


def test_unreadable_calls_are_reported(scripted: Scripted) -> None:
    broken = ("<tts_start>", "<tool_call>", "functionĊsearchĊ{", "<|EOT|>")
    reply = scripted(broken).dialogue(speech=True, tools=[SEARCH]).say(text="Rain?")
    assert reply.tool_calls == ()
    assert "no valid JSON" in str(reply.tool_error)


@pytest.mark.parametrize("speech", [True, False])
def test_thoughts_come_first_and_are_dropped(scripted: Scripted, speech: bool) -> None:
    model = scripted(THOUGHT, SPEECH, name="mini-Think")
    dialogue = model.dialogue(speech=speech, think=True)
    params = SamplingParams(max_new_tokens=64)
    reply = dialogue.say(audio=SECOND, params=params)
    assert reply.thought == "A child laughs"
    assert reply.mode == ("speech" if speech else "text")
    if speech:
        assert reply.text == "Hello world"
        assert list(reply.codes) == CODES
    assert reply.stats.tokens > len(reply.ids)
    history = written(model, dialogue)
    assert "<think>" not in history
    assert "<|BOT|>assistant\n<tts_start>Hello" in history or not speech


def test_thoughts_are_sampled_as_the_answer_is(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted(THOUGHT, SPEECH, name="mini-Think")
    given: list[SamplingParams] = []
    until = Generator.generate_until

    def watched(
        self: Generator, prompt: GenerationPrompt, params: SamplingParams, last: Any
    ) -> Any:
        given.append(params)
        return until(self, prompt, params, last)

    monkeypatch.setattr(Generator, "generate_until", watched)
    asked = SamplingParams(temperature=0.3, top_k=5, seed=4, max_new_tokens=3)
    reply = model.dialogue(speech=True, think=True).say(text="Hi", params=asked)
    assert reply.thought == "A child laughs"
    assert (given[0].temperature, given[0].top_k, given[0].seed) == (0.3, 5, 4)


def test_base_alternates_audio_and_ids(scripted: Scripted) -> None:
    model = scripted(SPEECH, name="mini-Base")
    dialogue = model.dialogue(speech=True)
    dialogue.say(audio=SECOND)
    dialogue.say(audio=SECOND)
    spoken = "".join(SPEECH[:-1]).replace("Ġ", " ")
    turn = f"<audio_start><audio_end>{spoken}"
    assert written(model, dialogue) == f"{turn}{turn}<tts_start>"
