"""Hotwords as users give them, and as a search over words takes them."""

import pytest

from stepaudio.errors import ConfigError
from stepaudio.text.hotwords import MAX_HOTWORDS, Hotwords, WordHotwords, spoken_words
from stepaudio.text.letter_to_sound import LetterToSound
from stepaudio.text.ngram import NUM_RESERVED
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.words import build_word_model

ENTRIES = {
    "cat": [("K", "AE", "T")],
    "mat": [("M", "AE", "T")],
    "x": [("EH", "K", "S")],
    "y": [("W", "AY")],
}


@pytest.fixture(scope="module")
def words():
    return build_word_model(["the cat", "the mat"], Lexicon(ENTRIES))


def prepared(words, phrases):
    return WordHotwords.prepare(Hotwords.parse(phrases), words, LetterToSound(words))


@pytest.mark.parametrize(
    ("given", "phrases"),
    [
        (None, ()),
        ("", ()),
        (" , ;\n", ()),
        ("Ann Lee, Bob;Cy\nAnn Lee", ("Ann Lee", "Bob", "Cy")),
        (["Ann  Lee", "", "Bob, Cy"], ("Ann Lee", "Bob", "Cy")),
        ("张三,李四、王五", ("张三", "李四", "王五")),
    ],
)
def test_lists_and_texts(given, phrases):
    hotwords = Hotwords.parse(given)
    assert hotwords.phrases == phrases
    assert bool(hotwords) is bool(phrases)
    assert Hotwords.parse(hotwords) is hotwords


def test_a_file_has_lines_and_comments(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeff# people\nAnn Lee\n\nBob, Cy\n", encoding="utf-8")
    assert Hotwords.read(path, 2.0) == Hotwords(("Ann Lee", "Bob", "Cy"), 2.0)


def test_files_that_are_no_lists(tmp_path):
    path = tmp_path / "names.txt"
    with pytest.raises(ConfigError, match=r"names\.txt: the hotwords cannot be read: no such file"):
        Hotwords.read(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        Hotwords.read(path)
    path.write_bytes(b"a\n" * 600_000)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        Hotwords.read(path)
    path.write_text("word " * 50)
    with pytest.raises(ConfigError, match=r"names\.txt: hotwords: .* longer than 100 characters"):
        Hotwords.read(path)


def test_limits():
    with pytest.raises(ConfigError, match="1001 are too many"):
        Hotwords(tuple(map(str, range(MAX_HOTWORDS + 1))))
    for strength in (-1, 5.5, float("nan")):
        with pytest.raises(ConfigError, match="strength must lie between 0 and 5"):
            Hotwords(("a",), strength)
    assert not Hotwords(("a",), 0)


def test_spoken_forms():
    assert spoken_words("GPT-4") == ["gpt", "four"]
    assert spoken_words("Müller") == ["muller"]
    assert spoken_words("O'Brien") == ["o'brien"]
    assert spoken_words("!?") == []


def test_known_words_keep_their_ids_and_unknown_ones_get_some(words):
    found = prepared(words, "mat cat, bat")
    assert found.words.words == (*words.words, "bat")
    new, cat = (NUM_RESERVED + found.words.words.index(word) for word in ("bat", "cat"))
    assert found.words.text([new]) == "bat"
    assert found.wanted.score([new]) > found.wanted.score([cat]) == 0
    assert found.words.ngrams.vocab_size == words.ngrams.vocab_size + 1
    # What was known is as likely as before.
    ids = [NUM_RESERVED + words.words.index(word) for word in ("mat", "cat", "mat")]
    before, after = words.ngrams.sentence_score(ids), found.words.ngrams.sentence_score(ids)
    assert after == pytest.approx(before)


def test_initials_are_also_spelled(words):
    found = prepared(words, "XY").words
    row = found.words.index("xy")
    assert found.num_spoken[row] >= 1
    lens = found.spoken_lens[int(found.num_spoken[:row].sum()) :]
    phones = found.spoken_phones[
        int(found.spoken_lens[: len(found.spoken_lens) - len(lens)].sum()) :
    ]
    spelled = [found.phones[phone - 1] for phone in phones[: lens[0]]]
    assert spelled == ["EH", "K", "S", "W", "AY"]


def test_hotwords_without_letters_are_named(words):
    with pytest.raises(ConfigError, match="'!!' has no letters that this model can hear"):
        prepared(words, ["cat", "!!"])
