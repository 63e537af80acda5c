"""Text to ids and back, around a byte-level BPE of Hugging Face ``tokenizers``.

User text can never become a special token: text is encoded by a BPE that does not know them, and
special tokens are asked for by name (`TextTokenizer.encode_special`).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stepaudio.errors import CheckpointError
from stepaudio.text.vocab import VISIBLE_TOKENS, Vocabulary

TOKENIZER_FILE = "tokenizer.json"
_VOCAB_FILE = "vocab.json"
_MERGES_FILE = "merges.txt"
_ADDED_FILE = "added_tokens.json"
_CONFIG_FILE = "tokenizer_config.json"
# Every file that a checkpoint may describe its tokenizer with.
TOKENIZER_FILES = (TOKENIZER_FILE, _VOCAB_FILE, _MERGES_FILE, _ADDED_FILE, _CONFIG_FILE)

# Qwen2's pre-tokenisation: contractions, words with the character before them, single digits,
# punctuation, line ends, spaces.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class AddedToken:
    """A token that no text is encoded to.

    Attributes:
        name: its string.
        visible: decoded text shows it even without special tokens (``<tool_call>``).
    """

    name: str
    visible: bool


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte, inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


class TextTokenizer:
    """Tokenizer of one checkpoint.

    Attributes:
        vocab: ids of the special tokens.
        token_ids: id of every token, by its string in the vocabulary file.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        """Build a tokenizer from the content of a ``tokenizer.json``.

        Raises:
            CheckpointError: the content is no byte-level BPE.
            ConfigError: special tokens of Step-Audio 2 are missing.
        """
        vocabulary = _check_definition(definition)
        self._definition = definition
        self._added = {
            token["id"]: AddedToken(token["content"], not token["special"])
            for token in definition.get("added_tokens", [])
        }
        self.token_ids: dict[str, int] = vocabulary | {t.name: i for i, t in self._added.items()}
        self.vocab = Vocabulary.from_token_map(self.token_ids)
        text_only = {**definition, "added_tokens": [], "post_processor": None}
        self._text = Tokenizer.from_str(json.dumps(text_only))
        self._bytes: dict[int, bytes] = {}
        # Whether the tokenizer puts a space of its own before a text (nano's does).
        self._adds_space = self._join(self.encode("a")) == b" a"

    @classmethod
    def from_folder(cls, folder: str | Path) -> TextTokenizer:
        """Load ``tokenizer.json``, or the older Qwen2 files, of a checkpoint.

        Raises:
            CheckpointError: the files are missing or unreadable.
            ConfigError: special tokens of Step-Audio 2 are missing.
        """
        folder = Path(folder)
        if (folder / TOKENIZER_FILE).is_file():
            return cls(_read_json(folder / TOKENIZER_FILE))
        if (folder / _VOCAB_FILE).is_file() and (folder / _MERGES_FILE).is_file():
            return cls(_qwen_definition(folder))
        raise CheckpointError(
            f"{folder}: no tokenizer found; expected {TOKENIZER_FILE}, or {_VOCAB_FILE} and "
            f"{_MERGES_FILE} with {_ADDED_FILE} or {_CONFIG_FILE}"
        )

    def save(self, folder: str | Path) -> Path:
        """Write ``tokenizer.json`` into an existing folder and return its path."""
        path = Path(folder) / TOKENIZER_FILE
        text = json.dumps(self._definition, ensure_ascii=False, separators=(",", ":"))
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def num_tokens(self) -> int:
        """Rows that an embedding table needs for all tokens."""
        return max(self.token_ids.values()) + 1

    def encode(self, text: str) -> list[int]:
        """Encode plain text; names of special tokens in it are ordinary characters.

        Raises:
            ValueError: the text has a lone surrogate and is no valid Unicode.
        """
        try:
            return list(self._text.encode(text).ids)
        except TypeError as error:  # what tokenizers says about lone surrogates
            raise ValueError("the text is no valid Unicode: it has a lone surrogate") from error

    def encode_special(self, name: str) -> int:
        """Id of a token by its name.

        Raises:
            ValueError: there is no token of that name.
        """
        try:
            return self.token_ids[name]
        except KeyError:
            raise ValueError(f"the tokenizer has no token {name!r}") from None

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Turn ids into text; invalid UTF-8 becomes U+FFFD, unknown ids are left out."""
        stream = self.stream(skip_special=skip_special)
        return "".join(map(stream.push, token_ids)) + stream.flush()

    def stream(self, *, skip_special: bool = True) -> DecodeStream:
        """Start decoding token by token."""
        return DecodeStream(self, skip_special=skip_special)

    def added_token(self, token_id: int) -> AddedToken | None:
        """The special or otherwise added token of that id, if it is one."""
        return self._added.get(token_id)

    @property
    def adds_space(self) -> bool:
        """Whether every encoded text begins with a space that decoding takes off again."""
        return self._adds_space

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes that a text token stands for, possibly part of a character."""
        known = self._bytes.get(token_id)
        if known is None:
            table = _byte_of_character()
            characters = self._text.id_to_token(token_id) or ""
            known = bytes(table[c] for c in characters)
            self._bytes[token_id] = known
        return known

    def _join(self, token_ids: Iterable[int]) -> bytes:
        return b"".join(map(self.token_bytes, token_ids))


class DecodeStream:
    """Decode one output token by token, never splitting a character.

    All pieces together, `flush` included, equal `TextTokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: TextTokenizer, *, skip_special: bool = True) -> None:
        """Start a stream; see `TextTokenizer.stream`."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer.adds_space

    def push(self, token_id: int) -> str:
        """Text that this token completes; empty inside a character."""
        added = self._tokenizer.added_token(token_id)
        if added is None:
            return self._text(self._tokenizer.token_bytes(token_id))
        if self._skip_special and not added.visible:
            # Audio tokens stand between the text tokens of speech, even inside a character.
            return ""
        tail = self.flush()
        self._at_start = self._tokenizer.adds_space
        return tail + added.name

    def flush(self) -> str:
        """End of the output: what is left of an unfinished character, as U+FFFD."""
        tail = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return tail

    def _text(self, data: bytes) -> str:
        if self._at_start and data:
            data = data.removeprefix(b" ")
            self._at_start = False
        return self._decoder.decode(data)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: no UTF-8 text ({error}); copy it again") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: no valid JSON ({error}); copy it again") from error


def _check_definition(definition: Any) -> dict[str, int]:
    """Check what `tokenizers` would answer with a bare Exception; return the vocabulary."""
    model = definition.get("model") if isinstance(definition, Mapping) else None
    if not isinstance(model, Mapping) or "vocab" not in model or "merges" not in model:
        raise CheckpointError(f"{TOKENIZER_FILE}: no BPE model with vocab and merges in it")
    vocabulary: dict[str, int] = model["vocab"]
    for merge in model["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise CheckpointError(
                f"{TOKENIZER_FILE}: the merge {pair} does not fit the vocabulary; vocabulary and "
                "merges are from different tokenizers"
            )
    unknown = {c for token in vocabulary for c in token} - _byte_of_character().keys()
    if unknown:
        raise CheckpointError(
            f"{TOKENIZER_FILE}: not byte-level, it has the characters {sorted(unknown)[:5]}"
        )
    return vocabulary


def _qwen_definition(folder: Path) -> dict[str, Any]:
    """Content of ``tokenizer.json`` from the separate files of a Qwen2 tokenizer."""
    lines = _read_text(folder / _MERGES_FILE).split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    pattern = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _qwen_added_tokens(folder),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [pattern | {"invert": False}, byte_level | {"use_regex": False}],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": _read_json(folder / _VOCAB_FILE),
            "merges": merges,
        },
    }


def _qwen_added_tokens(folder: Path) -> list[dict[str, Any]]:
    names: dict[int, AddedToken] = {}
    if (folder / _ADDED_FILE).is_file():
        for name, token_id in _read_json(folder / _ADDED_FILE).items():
            names[token_id] = AddedToken(name, name in VISIBLE_TOKENS)
    if (folder / _CONFIG_FILE).is_file():
        declared = _read_json(folder / _CONFIG_FILE).get("added_tokens_decoder", {})
        for token_id, entry in declared.items():
            names[int(token_id)] = AddedToken(entry["content"], not entry["special"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": names[i].name, **flags, "special": not names[i].visible}
        for i in sorted(names)
    ]
