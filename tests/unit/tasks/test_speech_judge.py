"""Nano listens to recordings, and knows what was said."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from stepaudio import StepAudio
from stepaudio.audio.io import load_audio
from stepaudio.tasks.speech_judge import SpeechJudge

AUDIO = Path(__file__).parents[3] / "examples" / "audio" / "us_female_1.ogg"
SAID = "crickets began to chirp and more geese and ducks flew overhead"
SIMILAR = "crickets began to chirp and four geese and trucks grew overhead"
OTHER = "he did not know what went on in the minds of his superiors"


@pytest.fixture(scope="module")
def judge() -> SpeechJudge:
    return SpeechJudge(StepAudio.from_pretrained("nano", device="cpu", lazy=True))


def test_the_words_that_were_said_are_heard_best(judge: SpeechJudge) -> None:
    audio = load_audio(AUDIO, sample_rate=24_000)
    losses = [judge.loss(audio.samples, 24_000, words.split()) for words in (SAID, SIMILAR, OTHER)]
    assert losses[0] < 0.7 < losses[1] < losses[2]
    noise = torch.randn(len(audio.samples), generator=torch.Generator().manual_seed(0)) * 0.1
    assert judge.loss(noise, 24_000, SAID.split()) > losses[0] + 1


def test_every_word_has_phones(judge: SpeechJudge) -> None:
    assert judge.phones(["xyzzyish"])
    assert judge.phones(["cat", "dog"]) == judge.phones(["cat"]) + judge.phones(["dog"])


def test_what_cannot_be_judged(judge: SpeechJudge) -> None:
    assert judge.loss(torch.zeros(24_000), 24_000, []) == 0.0
    assert judge.loss(torch.zeros(2_400), 24_000, ["extraordinary"] * 3) == math.inf
