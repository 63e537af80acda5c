"""Readings: phones where a dictionary knows the word, letters where none does."""

import pytest

from stepaudio.text.reading import read_words, reading_ids, reading_instruction
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio_recipes.tokenizer import train_tokenizer, with_special_tokens

WORDS = {"hello": [("HH", "AH", "L", "OW"), ("HH", "EH", "L", "OW")], "a": [("AH",)]}


class Dictionary:
    def pronunciations(self, word):
        return WORDS.get(word, [])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = train_tokenizer(["hello world"] * 4, 260, num_codes=9)
    with_special_tokens(trained, 5).save(str(folder / "tokenizer.json"))
    return TextTokenizer.from_folder(folder)


def test_the_usual_pronunciation_is_read_and_unknown_words_are_spelled():
    assert read_words(["a", "hello", "xyzzy"], Dictionary()) == "AH HH-AH-L-OW (xyzzy)"
    assert read_words([], Dictionary()) == ""


def test_a_phone_is_one_token_and_differs_from_every_text_token(tokenizer):
    ids = reading_ids(tokenizer, "HH-AH-L-OW")
    assert len(ids) == len(set(ids)) == 4
    assert min(ids) > tokenizer.vocab.audio_pad
    assert max(ids) < tokenizer.num_tokens


def test_no_merge_hides_a_letter_of_a_spelled_word(tokenizer):
    ids = reading_ids(tokenizer, "(hello)")
    assert ids == [token for letter in "hello" for token in tokenizer.encode(letter)]
    assert reading_ids(tokenizer, "(ä)")  # two bytes


def test_words_are_kept_apart(tokenizer):
    first, second = reading_ids(tokenizer, "AH"), reading_ids(tokenizer, "L-OW")
    both = reading_ids(tokenizer, "AH L-OW")
    assert both[: len(first)] == first
    assert both[-len(second) :] == second
    assert len(both) == len(first) + len(second) + 1


def test_a_phone_that_the_vocabulary_lacks_is_refused(tokenizer):
    with pytest.raises(ValueError, match="phone_QQ"):
        reading_ids(tokenizer, "QQ")


def test_new_special_tokens_keep_the_text_tokens(tokenizer):
    assert tokenizer.vocab.num_codes == 5
    other = train_tokenizer(["hello world"] * 4, 260, num_codes=9)
    assert tokenizer.encode("hello world") == other.encode("hello world").ids


def test_an_instruction_names_only_what_is_asked_for():
    assert reading_instruction("read this aloud") == "read this aloud"
    both = reading_instruction("read this aloud", voice="slt", style="slowly")
    assert both == "read this aloud as slt slowly"
