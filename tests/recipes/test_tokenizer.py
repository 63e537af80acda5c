from __future__ import annotations

import gzip
import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stepaudio.errors import StepAudioError
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import special_token_names
from stepaudio_recipes.lexicon import PHONES
from stepaudio_recipes.tokenizer import build_tokenizer, mix, save_tokenizer, train_tokenizer

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "the dog doesn't jump over the quick fox again",
    "Yes, the fox is in room 101. Isn't it?",
] * 3
NUM_TEXT_TOKENS = 300


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS, NUM_TEXT_TOKENS)


@pytest.fixture(scope="module")
def tokenizer(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = save_tokenizer(trained, tmp_path_factory.mktemp("nano") / "tokenizer")
    assert path.stat().st_size < 1_500_000
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]
    return TextTokenizer.from_folder(path.parent)


def test_order_of_ids(tokenizer: TextTokenizer) -> None:
    vocab = tokenizer.vocab
    assert vocab.pad == NUM_TEXT_TOKENS
    assert vocab.audio_0 == NUM_TEXT_TOKENS + len(special_token_names())
    assert sorted(tokenizer.token_ids.values()) == list(range(vocab.size + len(PHONES)))
    assert tokenizer.num_tokens == vocab.size + len(PHONES)


def test_training_is_deterministic(trained: Tokenizer) -> None:
    again = train_tokenizer(TEXTS, NUM_TEXT_TOKENS)
    assert again.to_str() == trained.to_str()


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_every_text_is_covered(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=8), min_size=1))
def test_leading_space_convention(tokenizer: TextTokenizer, words: list[str]) -> None:
    """A word has the same tokens at the start of a text and inside it."""
    apart = [i for word in words for i in tokenizer.encode(word)]
    assert tokenizer.encode(" ".join(words)) == apart


def test_hugging_face_reads_the_same_convention(
    trained: Tokenizer, tokenizer: TextTokenizer
) -> None:
    text = "the fox doesn't"
    assert trained.encode(text).ids == tokenizer.encode(text)
    assert trained.decode(tokenizer.encode(text)) == text


def test_digits_are_split(tokenizer: TextTokenizer) -> None:
    digits = tokenizer.encode("1010")
    assert len(digits) == 5  # the space and four digits
    assert len(set(digits)) == 3


def test_too_little_text() -> None:
    with pytest.raises(ValueError, match="instead of 2048: train on more text"):
        train_tokenizer(["a b"], 2048)


def test_mix_takes_raw_text_from_everywhere() -> None:
    raw = [string.ascii_uppercase[n] * 10 for n in range(20)]
    mixed = mix(["a" * 100, "b" * 50], raw, raw_share=0.25)
    assert mixed[:2] == ["a" * 100, "b" * 50]
    assert mixed[2:] == [raw[n] for n in (3, 7, 11, 15, 19)]
    assert mix(["a"], raw, raw_share=0.0) == ["a"]
    assert mix(["a" * 1000], raw[:2], raw_share=0.9)[1:] == raw[:2]
    assert mix(["a"], []) == ["a"]
    with pytest.raises(ValueError, match="raw_share"):
        mix(["a"], raw, raw_share=1.0)


def test_build_from_prepared_texts(tmp_path: Path) -> None:
    for name in ("texts.txt.gz", "texts_raw.txt.gz"):
        (tmp_path / name).write_bytes(gzip.compress("\n".join(TEXTS).encode()))
    path = build_tokenizer(tmp_path, tmp_path / "tokenizer", NUM_TEXT_TOKENS)
    assert json.loads(path.read_text())["model"]["type"] == "BPE"


# Names of their own: the compressed bytes hold the time, and test processes compare names.
@pytest.mark.parametrize(
    "content",
    [None, b"no gzip", gzip.compress(b"a" * 999)[:-9]],
    ids=["missing", "no gzip", "cut off"],
)
def test_unreadable_texts(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "texts.txt.gz").write_bytes(content)
    with pytest.raises(StepAudioError, match=r"texts\.txt\.gz: .*run the data preparation again"):
        build_tokenizer(tmp_path, tmp_path)
