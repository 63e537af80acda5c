from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.errors import ConfigError
from stepaudio.text.vocab import (
    ENDOFTEXT,
    NUM_AUDIO_CODES,
    PUBLIC_IDS,
    Vocabulary,
    audio_token_name,
    audio_token_names,
    special_token_names,
)

few_examples = settings(max_examples=40, deadline=None)

VECTORS = Path(__file__).parents[2] / "assets" / "vectors"


def token_map(num_text: int) -> dict[str, int]:
    names = [f"text{n}" for n in range(num_text)] + special_token_names() + audio_token_names()
    return {name: n for n, name in enumerate(names)}


TOKEN_MAP = token_map(100)
VOCAB = Vocabulary.from_token_map(TOKEN_MAP)


def test_order_of_special_tokens_gives_the_public_ids() -> None:
    ids = token_map(PUBLIC_IDS[ENDOFTEXT])
    assert {name: ids[name] for name in PUBLIC_IDS} == PUBLIC_IDS
    vocab = Vocabulary.from_token_map(ids)
    assert (vocab.eot, vocab.audio_patch, vocab.audio_pad) == (151665, 151690, 158257)
    assert (vocab.tool_call, vocab.tool_call_end) == (151657, 151658)
    assert vocab.stop_ids == (151643, 151645, 151665)
    assert vocab.text_size == 151688  # the public client's bound between text and audio
    assert vocab.size == 158258
    assert len(set(special_token_names())) == len(special_token_names())


def test_smaller_vocabulary_keeps_the_distances() -> None:
    shift = PUBLIC_IDS[ENDOFTEXT] - 100
    assert VOCAB.pad == 100
    assert VOCAB.tts_start == PUBLIC_IDS["<tts_start>"] - shift
    assert VOCAB.audio_0 == PUBLIC_IDS["<audio_0>"] - shift


def test_missing_tokens_are_listed() -> None:
    ids = token_map(10)
    for name in ("<|EOT|>", "<audio_patch>", "<audio_7>"):
        del ids[name]
    with pytest.raises(ConfigError, match=r"<\|EOT\|>, <audio_patch>, <audio_7>;"):
        Vocabulary.from_token_map(ids)
    with pytest.raises(ConfigError, match="<audio_0>"):
        Vocabulary.from_token_map({"a": 0})


def test_a_vocabulary_may_have_fewer_codes() -> None:
    names = [f"text{n}" for n in range(10)] + special_token_names() + audio_token_names(20)
    vocab = Vocabulary.from_token_map({name: i for i, name in enumerate([*names, "<phone_AA>"])})
    assert vocab.num_codes == 20
    assert vocab.audio_pad == len(names) - 1
    assert not vocab.is_audio(len(names))


def test_gap_between_audio_tokens_is_an_error() -> None:
    ids = token_map(10) | {"<audio_5>": 99999}
    with pytest.raises(ConfigError, match="<audio_5> has id 99999"):
        Vocabulary.from_token_map(ids)


def test_public_size_with_other_ids_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"<\|EOT\|> is 151666 instead of 151665"):
        Vocabulary.from_token_map(token_map(PUBLIC_IDS[ENDOFTEXT] + 1))


def test_tokens_out_of_order_are_an_error() -> None:
    ids = token_map(10)
    ids["<tts_pad>"], ids["text0"] = ids["text0"], ids["<tts_pad>"]
    with pytest.raises(ConfigError, match="out of order"):
        Vocabulary.from_token_map(ids)
    ids = token_map(10)
    ids["<|EOT|>"] = ids["<audio_6561>"] + 1
    with pytest.raises(ConfigError, match="before <audio_start>"):
        Vocabulary.from_token_map(ids)


def test_compressed_map_of_the_tiny_model() -> None:
    ids = json.loads((VECTORS / "token_ids.json").read_text())
    num_codes = ids.pop("n_codes")
    vocab = Vocabulary(num_codes=num_codes, **ids)
    assert vocab.text_size == 310
    assert vocab.stop_ids == (300, 301)
    assert vocab.size <= 640
    assert vocab.split_ids([5, 318, 301, 316, 617, 618]) == ([5, 301], [0, 299])


@few_examples
@given(st.integers(0, NUM_AUDIO_CODES))
def test_codes_and_ids_are_inverse(code: int) -> None:
    token_id = VOCAB.id_of_code(code)
    assert VOCAB.is_audio(token_id)
    assert VOCAB.code_of(token_id) == code
    assert TOKEN_MAP[audio_token_name(code)] == token_id


@pytest.mark.parametrize("code", [-1, NUM_AUDIO_CODES + 1])
def test_code_out_of_range(code: int) -> None:
    with pytest.raises(ValueError, match="6561"):
        VOCAB.id_of_code(code)


@pytest.mark.parametrize("token_id", [0, VOCAB.audio_0 - 1, VOCAB.audio_pad + 1])
def test_text_is_no_audio(token_id: int) -> None:
    assert not VOCAB.is_audio(token_id)
    with pytest.raises(ValueError, match="no audio token"):
        VOCAB.code_of(token_id)


def test_split_drops_controls_and_pads() -> None:
    mixed = [3, VOCAB.audio_0, VOCAB.tts_pad, VOCAB.audio_pad, VOCAB.tts_end, VOCAB.eot]
    assert VOCAB.split_ids(mixed) == ([3, VOCAB.eot], [0])
    assert VOCAB.split_ids([VOCAB.size]) == ([], [])


def test_importing_text_and_conversation_imports_no_torch() -> None:
    code = (
        "import sys, stepaudio.text.tokenizer, stepaudio.conversation\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
