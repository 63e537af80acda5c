"""Ways to decode with one model."""

import json

import numpy as np
import pytest
import torch

from stepaudio.catalog import embedded_folder
from stepaudio.errors import ConfigError
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.recognizer import Recognizer
from stepaudio.text.word_model import WordModel
from stepaudio_recipes.lexicon import PHONES, Lexicon
from stepaudio_recipes.words import build_word_model
from tests.scripted import scripted_checkpoint


@pytest.fixture(scope="module")
def nano():
    return load_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def words():
    return build_word_model(["the cat", "the dog"], Lexicon({"cat": [("K", "AE", "T")]}))


def test_words_need_a_word_model(nano):
    with pytest.raises(ConfigError, match=r"no words\.safetensors: use greedy decoding, or auto"):
        Recognizer(*nano, words=None, decoding="words")


def test_a_word_model_with_other_phones_is_refused(nano, words):
    other = WordModel(**(vars(words) | {"phones": PHONES[1:]}))
    with pytest.raises(ConfigError, match="belongs to another model"):
        Recognizer(*nano, words=other)


@pytest.fixture(scope="module")
def random_recognizers(words):
    """Recognisers with nano's tokenizer and random weights, one for each way to decode."""
    folder = embedded_folder("nano")
    values = json.loads((folder / "config.json").read_text())
    values["audio_encoder_config"]["ctc_phones"] = list(PHONES)
    torch.manual_seed(0)
    model = StepAudio2ForCausalLM(StepAudioConfig(**values)).eval()
    tokenizer = load_pretrained("nano", device="cpu")[1]
    return {
        decoding: Recognizer(model, tokenizer, words=words, decoding=decoding)
        for decoding in ("auto", "words", "greedy")
    }


def test_auto_searches_words_where_there_is_a_word_model(random_recognizers):
    rng = np.random.default_rng(0)
    wavs = [torch.from_numpy(rng.normal(0, 0.1, n).astype(np.float32)) for n in (20_000, 9000)]
    auto, costs = random_recognizers["auto"].recognize(wavs)
    assert auto == random_recognizers["words"].recognize(wavs)[0]
    assert set(" ".join(auto).split()) <= {"cat"}
    assert [cost.passes for cost in costs] == [1, 1]
    assert all(cost.encode_s > 0 and cost.decode_s > 0 for cost in costs)


def test_each_clip_of_a_batch_gets_what_it_gets_alone(random_recognizers):
    rng = np.random.default_rng(1)
    wavs = [torch.from_numpy(rng.normal(0, 0.1, n).astype(np.float32)) for n in (24_000, 0, 8000)]
    together, _ = random_recognizers["auto"].recognize(wavs)
    assert together == [random_recognizers["auto"].recognize([wav])[0][0] for wav in wavs]
    assert together[1] == ""


def test_prediction_blocks_change_the_passes_and_not_the_text(nano):
    model, tokenizer = nano
    rng = np.random.default_rng(2)
    wavs = [torch.from_numpy(rng.normal(0, 0.1, n).astype(np.float32)) for n in (24_000, 40_000)]
    blocks = MultiTokenPredictor.from_decoder(PredictorConfig(num_blocks=2), model.model)
    greedy, _ = Recognizer(model, tokenizer, decoding="greedy").recognize(wavs)
    for decoding in ("mtp", "auto"):
        recognizer = Recognizer(model, tokenizer, decoding=decoding, blocks=blocks)
        texts, costs = recognizer.recognize(wavs)
        assert texts == greedy
        assert all(c.tokens - 1 == c.passes + sum(c.accepted) for c in costs)
    with pytest.raises(ConfigError, match="mtp decoding needs prediction blocks"):
        Recognizer(model, tokenizer, decoding="mtp")


def test_a_base_model_is_prompted_without_a_template(tmp_path, definition):
    # The script goes on behind the audio itself, where a template would open an answer.
    script = ("<audio_end>", "All", "Ġfine", "<|EOT|>")
    for name, is_followed in (("mini-Base", True), ("mini", False)):
        folder = scripted_checkpoint(tmp_path / name, definition, [script])
        recognizer = Recognizer(*load_pretrained(folder, device="cpu"))
        (text,), _ = recognizer.recognize([torch.randn(16_000)])
        assert (text == "All fine") is is_followed
