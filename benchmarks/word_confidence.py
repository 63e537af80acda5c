"""Whether words that a model is less sure of are wrong more often.

    python benchmarks/word_confidence.py [--model nano] [--limit N] MANIFEST...

Every word of the transcripts is right or wrong after an alignment with the reference. Printed for
each manifest: the area under the ROC curve (0.5: confidence says nothing, 1: it tells all wrong
words from all right ones), and for ten classes of confidence how many words there were and how many
of them were right.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch

from stepaudio.tasks.asr import Transcriber
from stepaudio.tasks.transcript import Transcript
from stepaudio.text.manifest import read_manifest
from stepaudio.text.normalize import get_normalizer

NUM_CLASSES = 10


def judged_words(reference: str, transcript: Transcript) -> Iterator[tuple[float, bool]]:
    """Confidence of every word, and whether the reference has it there."""
    words = [word for segment in transcript.segments for word in segment.words]
    matcher = SequenceMatcher(None, reference.split(), [w.text for w in words], autojunk=False)
    right = {b + n for _, b, size in matcher.get_matching_blocks() for n in range(size)}
    for place, word in enumerate(words):
        yield word.confidence, place in right


def area_under_curve(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Probability that a right word has a higher score than a wrong one; ties count half."""
    values, right = np.asarray(scores), np.asarray(labels, bool)
    if right.all() or not right.any():
        return float("nan")
    above = (values[right][:, None] > values[~right][None]).mean()
    return float(above + 0.5 * (values[right][:, None] == values[~right][None]).mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--limit", type=int, default=200, help="recordings of each manifest")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transcriber = Transcriber.from_pretrained(args.model, device="cpu", word_timestamps=True)
    clean = get_normalizer("en").for_scoring
    for manifest in args.manifests:
        judged: list[tuple[float, bool]] = []
        for row in read_manifest(manifest)[: args.limit]:
            judged += judged_words(clean(row.text), transcriber.transcribe(row.audio_filepath))
        scores = np.array([score for score, _ in judged])
        labels = np.array([right for _, right in judged], bool)
        print(f"{manifest.stem}: {len(judged)} words, {100 * labels.mean():.1f} % right, ", end="")
        print(f"area under the curve {area_under_curve(scores, labels):.3f}")
        print("  confidence   words   right   mean confidence")
        for lowest in np.arange(NUM_CLASSES) / NUM_CLASSES:
            inside = (scores >= lowest) & (scores < lowest + 1 / NUM_CLASSES + 1e-9)
            if inside.any():
                share, mean = 100 * labels[inside].mean(), scores[inside].mean()
                print(
                    f"  {lowest:.1f} to {lowest + 0.1:.1f}{inside.sum():8}{share:7.1f}%{mean:12.2f}"
                )
        print(flush=True)


if __name__ == "__main__":
    main()
