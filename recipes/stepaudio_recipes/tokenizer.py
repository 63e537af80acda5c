"""Train nano's tokenizer: byte-level BPE with the public special tokens behind it.

Convention for leading spaces: the tokenizer itself puts one space before every text piece that
it encodes and takes one off what it decodes (``normalizer`` and ``decoder`` of
``tokenizer.json``). A word then has the same tokens at the start of a piece and inside it, which
spares a small model a second spelling of every word, and no caller has to know about it.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Sequence as DecoderSequence
from tokenizers.decoders import Strip
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from tokenizers.trainers import BpeTrainer

from stepaudio.errors import StepAudioError
from stepaudio.text.tokenizer import QWEN_PATTERN, TOKENIZER_FILE
from stepaudio.text.vocab import (
    NUM_AUDIO_CODES,
    VISIBLE_TOKENS,
    audio_token_names,
    phone_token_name,
    special_token_names,
)
from stepaudio_recipes.lexicon import PHONES

RAW_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Settings of the recipe.

    Attributes:
        data: folder that the ``prepare`` recipe filled.
        output_dir: where ``tokenizer.json`` goes.
        num_text_tokens: the 256 bytes and the merges.
        num_codes: audio codes; the public speech tokenizer has 6561, nano's 729.
        trained: folder of a trained tokenizer whose text tokens are kept; None: train new ones.
    """

    data: str = ".data/nano"
    output_dir: str = ".data/nano/tokenizer"
    num_text_tokens: int = 2048
    num_codes: int = 729
    trained: str | None = None


Config = TokenizerConfig


def main(config: TokenizerConfig) -> Path:
    """Train and save the tokenizer; returns its path."""
    folder = Path(config.output_dir)
    if config.trained is not None:
        path = Path(config.trained) / TOKENIZER_FILE
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StepAudioError(f"{path}: cannot be read: {error}") from error
        return save_tokenizer(with_special_tokens(tokenizer, config.num_codes), folder)
    sizes = config.num_text_tokens, config.num_codes
    return build_tokenizer(Path(config.data), folder, *sizes)


def mix(normalised: Sequence[str], raw: Sequence[str], raw_share: float = RAW_SHARE) -> list[str]:
    """Add raw text (cased, with punctuation) to normalised text until it has its share.

    Args:
        normalised: texts in the form of training targets; all are taken.
        raw: written texts, taken at regular distances so that every source is represented.
        raw_share: share of `raw` in all characters, in [0, 1).

    Raises:
        ValueError: `raw_share` is out of range.
    """
    if not 0 <= raw_share < 1:
        raise ValueError(f"raw_share must be at least 0 and below 1, got {raw_share}")
    wanted = sum(map(len, normalised)) * raw_share / (1 - raw_share)
    num_characters = sum(map(len, raw))
    ratio = min(wanted / num_characters, 1.0) if raw else 0.0
    taken = [text for n, text in enumerate(raw, start=1) if int(n * ratio) > int((n - 1) * ratio)]
    return [*normalised, *taken]


def train_tokenizer(
    texts: Iterable[str], num_text_tokens: int = 2048, num_codes: int = NUM_AUDIO_CODES
) -> Tokenizer:
    """Train a byte-level BPE and append all special and audio tokens in the public order.

    The same texts in the same order always give the same tokenizer.

    Args:
        texts: one utterance or paragraph each.
        num_text_tokens: the 256 bytes and the merges.
        num_codes: audio codes.

    Raises:
        ValueError: the texts are too few for so many tokens.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = Prepend(" ")
    tokenizer.pre_tokenizer = PreTokenizerSequence(
        [
            Split(Regex(QWEN_PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = DecoderSequence([ByteLevelDecoder(), Strip(" ", 1, 0)])
    trainer = BpeTrainer(
        vocab_size=num_text_tokens,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = tokenizer.get_vocab_size()
    if trained != num_text_tokens:
        raise ValueError(
            f"the texts give {trained} tokens instead of {num_text_tokens}: "
            "train on more text or ask for fewer tokens"
        )
    return _add_tokens(tokenizer, num_codes)


def with_special_tokens(trained: Tokenizer, num_codes: int) -> Tokenizer:
    """The text tokens of a trained tokenizer with new special, audio and phone tokens."""
    definition = json.loads(trained.to_str())
    tokenizer: Tokenizer = Tokenizer.from_str(json.dumps({**definition, "added_tokens": []}))
    return _add_tokens(tokenizer, num_codes)


def _add_tokens(tokenizer: Tokenizer, num_codes: int) -> Tokenizer:
    # The phones, which the public vocabulary lacks, come last: no public distance changes.
    phones = [phone_token_name(phone) for phone in PHONES]
    names = [*special_token_names(), *audio_token_names(num_codes), *phones]
    tokenizer.add_tokens(
        [AddedToken(name, normalized=False, special=name not in VISIBLE_TOKENS) for name in names]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write ``tokenizer.json`` without indentation, atomically; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TOKENIZER_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    os.replace(partial, path)
    return path


def build_tokenizer(
    data_dir: Path, folder: Path, num_text_tokens: int = 2048, num_codes: int = NUM_AUDIO_CODES
) -> Path:
    """Train on the texts that the data preparation wrote and save the tokenizer.

    Args:
        data_dir: folder with ``texts.txt.gz`` (training form) and ``texts_raw.txt.gz``.
        folder: where ``tokenizer.json`` goes; made if it is not there.
        num_text_tokens: the 256 bytes and the merges.
        num_codes: audio codes.

    Returns:
        Path of the tokenizer.

    Raises:
        StepAudioError: the texts are missing or unreadable.
    """
    texts = mix(_read_lines(data_dir / "texts.txt.gz"), _read_lines(data_dir / "texts_raw.txt.gz"))
    return save_tokenizer(train_tokenizer(texts, num_text_tokens, num_codes), folder)


def _read_lines(path: Path) -> list[str]:
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    except (OSError, EOFError, ValueError) as error:
        raise StepAudioError(f"{path}: {error}; run the data preparation again") from error
