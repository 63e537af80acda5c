"""Small tokenizers with every special token of Step-Audio 2."""

from __future__ import annotations

from typing import Any

import pytest

from stepaudio.text.tokenizer import QWEN_PATTERN, TextTokenizer
from stepaudio.text.vocab import VISIBLE_TOKENS, audio_token_names, special_token_names

MERGES = ["Ġ t", "h e", "Ġt he", "Ġ c", "a t", "Ġc at", "Ċ Ċ", "Ã ©"]


def byte_characters() -> list[str]:
    """GPT-2's printable character for every byte value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def tokenizer_definition(*, adds_space: bool) -> dict[str, Any]:
    """Content of a ``tokenizer.json`` with eight merges; `adds_space` as in nano's."""
    tokens = [*byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    names = [*special_token_names(), *audio_token_names()]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": len(tokens) + n, "content": name, **flags, "special": name not in VISIBLE_TOKENS}
        for n, name in enumerate(names)
    ]
    split = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = False
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [byte_level, strip] if adds_space else [byte_level]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Prepend", "prepend": " "} if adds_space else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, byte_level],
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }


@pytest.fixture(scope="session")
def definition() -> dict[str, Any]:
    return tokenizer_definition(adds_space=False)


@pytest.fixture(scope="session")
def tokenizer(definition: dict[str, Any]) -> TextTokenizer:
    """Encodes text as it is, like the public tokenizer."""
    return TextTokenizer(definition)


@pytest.fixture(scope="session")
def spacing_definition() -> dict[str, Any]:
    return tokenizer_definition(adds_space=True)


@pytest.fixture(scope="session")
def spacing_tokenizer(spacing_definition: dict[str, Any]) -> TextTokenizer:
    """Puts a space before every text, like nano's tokenizer."""
    return TextTokenizer(spacing_definition)
