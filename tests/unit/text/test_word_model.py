"""The word model's file."""

import dataclasses

import numpy as np
import pytest

from stepaudio.errors import CheckpointError
from stepaudio.text.ngram import NUM_RESERVED, train_ngrams
from stepaudio.text.word_model import WORDS_FILE, WordModel


@pytest.fixture
def model():
    sentences = [[3, 4], [4, 4, 3], [3]] * 3
    return WordModel(
        words=("o'clock", "two"),
        phones=("A", "B"),
        num_spoken=np.array([2, 1], np.uint8),
        spoken_lens=np.array([1, 2, 1], np.uint8),
        spoken_phones=np.array([1, 1, 2, 2], np.uint8),
        ngrams=train_ngrams(sentences, NUM_RESERVED + 2, min_count=1, largest_word=9),
    )


def test_a_saved_model_comes_back(model, tmp_path):
    path = model.save(tmp_path)
    assert path == tmp_path / WORDS_FILE
    copy = WordModel.load(tmp_path)
    assert (copy.words, copy.phones) == (model.words, model.phones)
    assert copy.text([NUM_RESERVED, NUM_RESERVED + 1]) == "o'clock two"
    assert (copy.tree().children == model.tree().children).all()
    assert (copy.tree().words == model.tree().words).all()
    score = model.ngrams.sentence_score([3, 4])
    assert copy.ngrams.sentence_score([3, 4]) == pytest.approx(score, abs=3 / 8)  # three steps


def test_every_pronunciation_leads_to_its_word(model):
    tree = model.tree()
    one, two = tree.children[0, 1], tree.children[0, 2]
    _, words = tree.words_at(np.array([one, tree.children[one, 2], two]))
    assert words.tolist() == [NUM_RESERVED, NUM_RESERVED, NUM_RESERVED + 1]


def test_a_folder_may_have_none(tmp_path):
    assert WordModel.load(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"num_spoken": np.array([1, 1], np.uint8)},
        {"num_spoken": np.array([3], np.uint8)},
        {"spoken_lens": np.array([0, 3, 1], np.uint8)},
        {"spoken_phones": np.array([1, 1, 2, 3], np.uint8)},
        {"spoken_phones": np.array([1, 1, 2], np.uint8)},
        {"words": ("o'clock",)},
    ],
)
def test_parts_that_do_not_fit_are_named(model, tmp_path, change):
    dataclasses.replace(model, **change).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"words\.safetensors: damaged \(its parts"):
        WordModel.load(tmp_path)


def test_ngrams_that_do_not_fit_are_named(model, tmp_path):
    ngrams = dataclasses.replace(model.ngrams, pair=model.ngrams.pair[:-1])
    dataclasses.replace(model, ngrams=ngrams).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"words\.safetensors: damaged"):
        WordModel.load(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_named(model, tmp_path, damage):
    path = model.save(tmp_path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "empty": b"", "other": b"x" * 200}[damage])
    with pytest.raises(CheckpointError, match=r"words\.safetensors: damaged .*copy it again"):
        WordModel.load(tmp_path)
