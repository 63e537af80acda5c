"""The recipe of the word model."""

import gzip

import pytest

from stepaudio.errors import ConfigError
from stepaudio.text.ngram import NUM_RESERVED
from stepaudio.text.word_model import WordModel
from stepaudio_recipes.corpora import write_manifest
from stepaudio_recipes.lexicon import PHONES, Lexicon
from stepaudio_recipes.words import WordsConfig, build_word_model, main

DICTIONARY = """the DH AH0
the(2) DH IY0
cat K AE1 T
sat S AE1 T
dog D AO1 G
m.c. EH1 M S IY1
"""


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "cmudict.dict.gz").write_bytes(gzip.compress(DICTIONARY.encode()))
    texts = "the cat sat\nthe cat sat\nthe zzzq sat\nthe cat's m.c.\n"
    (folder / "texts.txt.gz").write_bytes(gzip.compress(texts.encode()))
    write_manifest(folder / "manifests" / "train_real.jsonl", [{"text": "sat the cat"}] * 2)
    return folder


def test_words_are_those_that_can_be_said_and_spelled():
    lexicon = Lexicon({"the": [("DH", "AH"), ("DH", "IY")], "b.": [("B",)], "dog": [("D", "G")]})
    model = build_word_model(["the dog's zzzq", "the b."], lexicon)
    assert model.words == ("the", "dog's", "dog")  # by frequency, then unseen ones
    assert model.phones == PHONES
    assert model.num_spoken.tolist() == [2, 1, 1]
    assert model.spoken_lens.tolist() == [2, 2, 3, 2]


def test_the_recipe_writes_the_same_file_every_time(data, tmp_path):
    written = []
    for name in ("one", "two"):
        path = main(WordsConfig(data=str(data), output_dir=str(tmp_path / name)))
        written.append(path.read_bytes())
    assert written[0] == written[1]
    model = WordModel.load(tmp_path / "one")
    assert set(model.words) == {"the", "cat", "cat's", "sat", "dog"}
    ids = {word: NUM_RESERVED + index for index, word in enumerate(model.words)}
    sat, cat, dog = (
        model.ngrams.sentence_score([ids["the"], ids[w]]) for w in ("sat", "cat", "dog")
    )
    assert cat > sat > dog
    # A transcript counts five times as much as a sentence of the text pool.
    assert model.ngrams.sentence_score([ids["sat"], ids["the"], ids["cat"]]) > -3


def test_missing_data_say_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="prepare recipe"):
        main(WordsConfig(data=str(tmp_path), output_dir=str(tmp_path)))
