"""Word times: of real digits at known places, and of words that cannot be aligned."""

import pytest
import torch

from stepaudio.audio.io import load_audio
from stepaudio.errors import ConfigError
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.alignment import Span, WordAligner, fill_gaps
from stepaudio.tasks.transcript import Word

GAP_S = 0.6


@pytest.fixture(scope="module")
def aligner():
    return WordAligner.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def digits(examples):
    """ "four seven four" with pauses, and where each word really is."""
    gap = torch.zeros(int(GAP_S * 16_000))
    parts, bounds, length = [gap], [], len(gap)
    for name in ("four", "seven", "four"):
        wav = load_audio(examples / f"digit_{name}.wav").samples
        bounds.append((length / 16_000, (length + len(wav)) / 16_000))
        parts += [wav, gap]
        length += len(wav) + len(gap)
    return torch.cat(parts), bounds


def test_words_are_where_they_are_said(aligner, digits):
    wav, bounds = digits
    words = aligner.align(wav, "four seven four")
    assert [word.text for word in words] == ["four", "seven", "four"]
    for word, (start, end) in zip(words, bounds, strict=True):
        assert start - 0.15 < word.start < word.end < end + 0.15
        assert 0.01 < word.confidence <= 1


def test_what_was_not_said_has_a_low_confidence(aligner, digits):
    said = [word.confidence for word in aligner.align(digits[0], "four seven four")]
    other = [word.confidence for word in aligner.align(digits[0], "oxygen lamb yacht")]
    assert max(other) < min(said)


def test_writing_does_not_matter(aligner, digits):
    plain = aligner.align(digits[0], "four seven four")
    written = aligner.align(digits[0], "Four, SEVEN four!")
    assert [word.text for word in written] == ["Four,", "SEVEN", "four!"]
    assert [word.start for word in written] == [word.start for word in plain]


def test_figures_and_other_scripts_share_the_time_between(aligner, digits):
    first, figure, chinese, last = aligner.align(digits[0], "four 7 七 four")
    assert first.end == figure.start < figure.end == chinese.start < chinese.end == last.start
    assert figure.confidence == chinese.confidence == 0
    assert figure.end - figure.start == pytest.approx(chinese.end - chinese.start, abs=0.002)


@pytest.mark.parametrize("text", ["", "   "])
def test_no_text_has_no_words(aligner, text):
    assert aligner.align(torch.zeros(8000), text) == ()


def test_more_letters_than_time_are_spread_evenly(aligner):
    words = aligner.align(torch.randn(3200) * 0.1, "far too much text")
    assert [word.start for word in words] == [0.0, 0.05, 0.1, 0.15]
    assert words[-1].end == 0.2


@pytest.mark.parametrize("num_samples", [0, 100, 800])
def test_words_in_a_sound_that_is_too_short_to_be_heard(aligner, num_samples):
    (word,) = aligner.align(torch.zeros(num_samples), "hm")
    assert (word.start, word.end) == (0.0, round(num_samples / 16_000, 3))
    assert word.confidence == 0


def test_gaps_between_known_spans():
    known = Span(1.0, 2.0, 0.9)
    assert fill_gaps([None, known, None, None], 4.0) == [
        Span(0.0, 1.0, 0.0), known, Span(2.0, 3.0, 0.0), Span(3.0, 4.0, 0.0),
    ]  # fmt: skip
    assert fill_gaps([known], 1.5) == [Span(1.0, 1.5, 0.9)]
    assert fill_gaps([], 1.0) == []


def test_a_model_without_a_ctc_head_cannot_align(tiny_model):
    model: StepAudio2ForCausalLM = tiny_model()
    model.config.audio_encoder_config = type(model.config.audio_encoder_config)(
        **{**vars(model.config.audio_encoder_config), "ctc_tokens": ""}
    )
    with pytest.raises(ConfigError, match="CTC head, such as nano"):
        WordAligner(model)


def test_a_word_can_be_moved():
    assert Word("one", 0.1, 0.25, 0.5).shifted(10.0) == Word("one", 10.1, 10.25, 0.5)
