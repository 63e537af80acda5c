"""Conversations of a model that writes down what it hears."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from stepaudio.errors import ConfigError
from stepaudio.generation.stats import GenerationStats
from stepaudio.models.dialogue_config import DialogueConfig
from stepaudio.tasks.listening import Heard
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.tasks.transcript_dialogue import TranscriptDialogue
from stepaudio.tools import builtin_tools
from tests.unit.tasks.conftest import EOT, NEWLINE, Scripted

SILENCE = torch.zeros(16_000)
HEARING = {"hearing": "transcript", "language": "en", "tools": "names", "min_confidence": 0.5}
ANSWER = (NEWLINE, "All", "Ġfine", EOT)
CALL = (NEWLINE, "<tool_call>", 'functionĊtimerĊ{"duration":Ġ"Ġfive"}', "</tool_call>", EOT)
SORRY = DialogueConfig().not_understood


def begin(model: StepAudio, **options: Any) -> TranscriptDialogue:
    dialogue = model.dialogue(**options)
    assert isinstance(dialogue, TranscriptDialogue)
    return dialogue


def hears(model: StepAudio, text: str, confidence: float = 1.0) -> None:
    """Replace what the checkpoint's recognition writes down."""
    heard = Heard(text, confidence, GenerationStats(audio_s=1.0))
    model.transcripts.__dict__["listener"] = lambda audio: heard


def written(model: StepAudio, dialogue: TranscriptDialogue) -> str:
    return model.tokenizer.decode(dialogue.prompt().ids, skip_special=False)


def test_everything_is_in_spoken_form_and_tools_are_names(scripted: Scripted) -> None:
    model = scripted(ANSWER, dialogue=HEARING)
    tools = builtin_tools().schemas
    dialogue = begin(model, system="You are Ada, a chef.", tools=tools, speech=True)
    hears(model, "what is seven plus two")
    reply = dialogue.say(audio=SILENCE)
    dialogue.say(text="And 5?")
    assert (reply.text, reply.mode) == ("All fine", "text")
    assert reply.stats.audio_s == 1.0
    assert written(model, dialogue) == (
        "<|BOT|>system\nyou are ada a chef<|EOT|>"
        "<|BOT|>tool_json_schemas\ntime date timer weather calculator spelling<|EOT|>"
        "<|BOT|>human\nwhat is seven plus two<|EOT|><|BOT|>assistant\nAll fine<|EOT|>"
        "<|BOT|>human\nand five<|EOT|><|BOT|>assistant\nAll fine<|EOT|><|BOT|>assistant\n"
    )


def test_silence_is_not_understood_without_asking_the_model(scripted: Scripted) -> None:
    model = scripted(ANSWER, dialogue=HEARING)
    dialogue = begin(model)
    before = written(model, dialogue)
    reply = dialogue.say(audio=SILENCE)
    assert (reply.text, reply.tool_calls) == (SORRY, ())
    assert dialogue.heard == Heard("", 0.0, GenerationStats())
    assert "generator" not in model.__dict__
    assert written(model, dialogue) == before


@pytest.mark.parametrize(("confidence", "answer"), [(0.49, SORRY), (0.51, "All fine")])
def test_uncertain_transcripts_are_not_answered(
    scripted: Scripted, confidence: float, answer: str
) -> None:
    model = scripted(ANSWER, dialogue=HEARING)
    hears(model, "what time is it", confidence)
    assert begin(model).say(audio=SILENCE).text == answer


def test_written_text_without_words_is_not_understood(scripted: Scripted) -> None:
    model = scripted(ANSWER, dialogue=HEARING)
    assert begin(model).say(text="?!").text == SORRY
    with pytest.raises(ValueError, match="text or audio"):
        begin(model).say()


def test_results_of_tools_are_in_spoken_form(scripted: Scripted) -> None:
    model = scripted(CALL, dialogue=HEARING)
    dialogue = begin(model, tools=builtin_tools().schemas)
    reply = dialogue.say(text="Set a timer!")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        ("timer", {"duration": " five"})
    ]
    dialogue.answer_tools(["timer set for 5 minutes"])
    assert "<|BOT|>input\ntimer set for five minutes" in written(model, dialogue)


def test_a_call_that_cannot_be_read_is_not_understood(scripted: Scripted) -> None:
    broken = (NEWLINE, "<tool_call>", "functionĊtimerĊ{", EOT)
    model = scripted(broken, dialogue=HEARING)
    reply = begin(model, tools=builtin_tools().schemas).say(text="Set a timer!")
    assert reply.text == SORRY
    assert "no valid JSON" in str(reply.tool_error)


def test_configuration() -> None:
    assert DialogueConfig().to_dict() == {}
    config = DialogueConfig.from_dict(HEARING)
    assert config.to_dict() == HEARING
    with pytest.raises(ConfigError, match="need hearing 'transcript'"):
        dataclasses.replace(config, hearing="audio")
    with pytest.raises(ConfigError, match="must be one of"):
        DialogueConfig.from_dict(HEARING | {"tools": "both"})


def test_a_missing_adapter_is_named(scripted: Scripted) -> None:
    model = scripted(ANSWER, dialogue=HEARING | {"adapter": "chat"})
    with pytest.raises(ConfigError, match="no adapter 'chat'"):
        begin(model).say(text="Hi")
