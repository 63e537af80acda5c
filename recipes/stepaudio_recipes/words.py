"""Make the word model that nano's phone head is decoded with."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepaudio.errors import ConfigError
from stepaudio.text.ngram import NUM_RESERVED, UNKNOWN, train_ngrams
from stepaudio.text.word_model import WordModel
from stepaudio_recipes.corpora import read_manifest
from stepaudio_recipes.lexicon import PHONES, Lexicon, phone_indices
from stepaudio_recipes.ngram_mix import cut, in_vocabulary, mix
from stepaudio_recipes.sphinx_lm import SphinxTrigrams, model_file, read_sphinx_trigrams
from stepaudio_recipes.text_data import read_texts

_log = logging.getLogger(__name__)

_LETTERS = frozenset("'abcdefghijklmnopqrstuvwxyz")
_LARGEST_STORED = np.iinfo(np.uint16).max


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """Settings of the recipe.

    Attributes:
        data: folder that the ``prepare`` recipe filled.
        output_dir: folder of the model that gets ``words.safetensors``; made if needed.
        transcript_copies: how often each distinct transcript of the training speech counts.
        min_count: word pairs and triples seen less often are not counted.
        sphinx_weight: weight of pocketsphinx's own trigrams, which are of general English; 0: the
            prepared texts alone.
        ngram_bytes: size that pairs and triples are cut to, before they are compressed; 0: all are
            kept.
    """

    data: str = ".data/nano"
    output_dir: str = "runs/nano/model"
    transcript_copies: int = 5
    min_count: int = 2
    sphinx_weight: float = 0.0
    ngram_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sphinx_weight < 1:
            raise ConfigError(f"sphinx_weight must be from 0 to below 1, got {self.sphinx_weight}")


Config = WordsConfig


def main(config: WordsConfig) -> Path:
    """Make and save the word model; returns its path.

    Raises:
        ConfigError: the prepared data are missing or damaged.
        OutputError: the file cannot be written.
    """
    data = Path(config.data)
    lexicon = Lexicon.read(data / "cmudict.dict.gz")
    texts = read_texts(data / "texts.txt.gz")
    rows = read_manifest(data / "manifests" / "train_real.jsonl")
    # Sorted, because the order of a set differs from run to run.
    transcripts = sorted({row["text"] for row in rows})
    sentences = texts + transcripts * config.transcript_copies
    prior = read_sphinx_trigrams(model_file()) if config.sphinx_weight else None
    model = build_word_model(sentences, lexicon, config, prior)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = model.save(folder)
    _log.info("%s: %d words, %d bytes", path, len(model.words), path.stat().st_size)
    return path


def build_word_model(
    sentences: Sequence[str],
    lexicon: Lexicon,
    config: WordsConfig = WordsConfig(),
    prior: SphinxTrigrams | None = None,
) -> WordModel:
    """Make a word model of all words that the lexicon can say.

    Args:
        sentences: text for the language model, in the training form.
        lexicon: pronunciations.
        config: sizes and weights.
        prior: a language model that is mixed in with `sphinx_weight`.
    """
    counts = Counter(word for sentence in sentences for word in sentence.split())
    ranked = _ranked(counts, config.sphinx_weight, prior)
    unseen = sorted(set(lexicon.words) - set(ranked))
    words = [w for w in ranked + unseen if _LETTERS.issuperset(w) and lexicon.pronunciations(w)]
    ids = {word: index for index, word in enumerate(words, NUM_RESERVED)}
    spoken = [lexicon.pronunciations(word) for word in words]
    phones = [phone_indices(pronunciation) for known in spoken for pronunciation in known]
    ngrams = train_ngrams(
        ([ids.get(word, UNKNOWN) for word in sentence.split()] for sentence in sentences),
        len(words) + NUM_RESERVED,
        min_count=config.min_count,
        largest_word=_LARGEST_STORED,
    )
    if prior is not None:
        other = in_vocabulary(prior, ids, ngrams.vocab_size, _LARGEST_STORED)
        ngrams = mix(ngrams, other, config.sphinx_weight)
    if config.ngram_bytes:
        ngrams = cut(ngrams, config.ngram_bytes)
    return WordModel(
        words=tuple(words),
        phones=PHONES,
        num_spoken=np.array([len(known) for known in spoken], np.uint8),
        spoken_lens=np.array([len(indices) for indices in phones], np.uint8),
        spoken_phones=np.array([index for indices in phones for index in indices], np.uint8),
        ngrams=ngrams,
    )


def _ranked(counts: Counter[str], weight: float, prior: SphinxTrigrams | None) -> list[str]:
    """Words by falling frequency: those of the texts, and those of the other model."""
    total = max(counts.total(), 1)
    shares = {word: (1 - weight) * count / total for word, count in counts.items()}
    if prior is not None:
        for word, log_prob in zip(prior.words, prior.unigram.tolist(), strict=True):
            shares[word] = shares.get(word, 0.0) + weight * math.exp(log_prob)
    return sorted(shares, key=lambda word: (-shares[word], word))
