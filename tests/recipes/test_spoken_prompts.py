"""A voice is prompted and constrained in use exactly as it was in training."""

from __future__ import annotations

import pytest

from stepaudio import StepAudio
from stepaudio.generation.constraint import GivenText
from stepaudio.tasks.speech_options import SpeechOptions
from stepaudio.tasks.speech_prompt import SpeechPrompter
from stepaudio.tasks.speech_style import read_style
from stepaudio.text.reading import reading_instruction
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.tts_stage import INSTRUCTION, PACES, TtsExamples
from tests.speaking import SPEECH, speaking_checkpoint, word_model

TEXT = "hello the xyzzy dog"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StepAudio:
    folder = tmp_path_factory.mktemp("checkpoints") / "speaker"
    return StepAudio.from_pretrained(speaking_checkpoint(folder, with_parts=False), lazy=True)


@pytest.fixture(scope="module")
def examples_of_training(model: StepAudio) -> TtsExamples:
    words = word_model()
    phones = [words.phones[index - 1] for index in words.spoken_phones.tolist()]
    entries, start = {}, 0
    for word, length in zip(words.words, words.spoken_lens.tolist(), strict=True):
        entries[word] = [phones[start : start + length]]
        start += length
    return TtsExamples(model.tokenizer, Lexicon(entries))


@pytest.mark.parametrize("voice", ["kathleen", None])
@pytest.mark.parametrize("pace", ["", *PACES])
def test_prompts(
    model: StepAudio, examples_of_training: TtsExamples, voice: str | None, pace: str
) -> None:
    prompter = SpeechPrompter(model, SpeechOptions())
    (sentence,) = prompter.sentences("Hello, the xyzzy dog!")
    assert sentence.text == TEXT
    job = prompter.job(sentence, voice, read_style(pace, model.config.speech.styles))
    instruction = reading_instruction(INSTRUCTION, voice=voice, style=pace)
    reading = examples_of_training.reading(TEXT)
    prompt, _ = examples_of_training.prompt(instruction, reading)
    assert job.prompt.ids == prompt
    assert set(PACES) <= set(SPEECH["styles"])  # type: ignore[call-overload]


def test_answers(model: StepAudio, examples_of_training: TtsExamples) -> None:
    prompter = SpeechPrompter(model, SpeechOptions())
    (sentence,) = prompter.sentences(TEXT)
    job = prompter.job(sentence, "kathleen", read_style(None, {}))
    constraint = job.params.constraint
    assert isinstance(constraint, GivenText)
    codes = [code % 81 for code in range(4 * len(constraint.text_ids) + 7)]
    answer = examples_of_training.answer(TEXT, codes)
    assert answer is not None
    ids = answer[0]
    for place, token in enumerate(ids):
        assert any(token in allowed for allowed in constraint.allowed(ids[:place]))
    assert ids[-1] in (job.params.stop_ids or ())
    assert len(ids) <= job.params.max_new_tokens
