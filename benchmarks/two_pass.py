"""What each part of two-pass recognition is worth, and what it costs.

    python benchmarks/two_pass.py [--model nano] [--threads 1] MANIFEST

The same recordings, one at a time: the search over words alone; with the character head and the
weights of the second pass; judged by the decoder as well. Beside them the error of the best
transcript that the search returns, and the perplexity of the language model on the reference. RTF
is processor time for a second of audio, mel and encoder included.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.audio.mel import log_mel
from stepaudio.generation.generator import Generator
from stepaudio.generation.two_pass import TwoPassOptions
from stepaudio.generation.word_search import WordSearch
from stepaudio.models.checkpoint import load_pretrained, pretrained_folder
from stepaudio.tasks.recognizer import Recognizer
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.text.ngram import NUM_RESERVED, UNKNOWN
from stepaudio.text.wer import word_error_rate
from stepaudio.text.word_model import WordModel

FULL = TwoPassOptions()
SETTINGS = {
    "search alone": replace(
        FULL,
        phones=1.0,
        characters=0.0,
        language=FULL.search.language_weight,
        word_reward=FULL.search.word_reward,
        num_judged=1,
    ),
    "without decoder": replace(FULL, num_judged=1),
    "all": FULL,
}


@dataclass(frozen=True)
class Clip:
    """One recording and what is said in it."""

    samples: torch.Tensor
    text: str


def percent(references: Sequence[str], texts: Sequence[str]) -> str:
    """Word error rate."""
    return f"{100 * word_error_rate(references, texts).rate:7.1f} %"


def perplexity(words: WordModel, texts: Sequence[str]) -> float:
    """Perplexity of the language model, sentence ends and unknown words included."""
    ids = {word: index for index, word in enumerate(words.words, NUM_RESERVED)}
    sentences = [[ids.get(word, UNKNOWN) for word in text.split()] for text in texts]
    total = sum(words.ngrams.sentence_score(sentence) for sentence in sentences)
    return math.exp(-total / sum(len(sentence) + 1 for sentence in sentences))


def best_texts(generator: Generator, words: WordModel, clips: Sequence[Clip]) -> list[str]:
    """Of the transcripts that the search returns, the one with the fewest errors."""
    search = WordSearch(words.tree(), words.ngrams, FULL.search)
    config = generator.model.config.audio_encoder_config
    texts = []
    for clip in clips:
        mel = log_mel(clip.samples, config.n_mels, floor=config.mel_floor)
        _, (heard,) = generator.encode_with_ctc([mel])
        found = [words.text(hypothesis.words) for hypothesis in search(heard.phones.numpy())]
        errors = [word_error_rate([clip.text], [text]).rate for text in found]
        texts.append(found[errors.index(min(errors))])
    return texts


def main() -> None:
    """Print a table for every source in the manifest."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load_pretrained(args.model, device="cpu")
    words = WordModel.load(pretrained_folder(args.model))
    if words is None:
        parser.error(f"{args.model} has no word model")
    generator = Generator(model)
    recognizers = {
        name: Recognizer(model, tokenizer, words, "words", options)
        for name, options in SETTINGS.items()
    }

    def source(row: ManifestRow) -> str:
        return row.source or ""

    for name, rows in groupby(sorted(read_manifest(args.manifest), key=source), source):
        clips = [Clip(load_audio(row.audio_filepath).samples, row.text) for row in rows]
        references = [clip.text for clip in clips]
        seconds = sum(len(clip.samples) for clip in clips) / SAMPLE_RATE
        print(f"{name}: {len(clips)} recordings, perplexity {perplexity(words, references):.0f}")
        for setting, recognizer in recognizers.items():
            started = time.process_time()
            texts = [recognizer.recognize([clip.samples])[0][0] for clip in clips]
            rtf = (time.process_time() - started) / seconds
            print(f"  {setting:18}{percent(references, texts)}   RTF {rtf:.4f}", flush=True)
        print(
            f"  {'best of the search':18}{percent(references, best_texts(generator, words, clips))}"
        )


if __name__ == "__main__":
    main()
