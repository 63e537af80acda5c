"""Phone errors of the recogniser's phone head, read greedily, without words or decoder.

    python benchmarks/phone_errors.py MANIFEST... [--model nano] [--limit 60] [--source kathleen]

The reference is the first pronunciation of every word in the dictionary; rows with unknown words
are left out. The difference between training and held-out recordings tells how much is learnt by
heart.
"""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch

from stepaudio.audio.mel import log_mel
from stepaudio.generation.generator import Generator
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.text.wer import word_error_rate
from stepaudio.training.data import SampleStore
from stepaudio_recipes.lexicon import PHONES, Lexicon


def phones_heard(generator: Generator, samples: torch.Tensor) -> list[int]:
    """Indices of the phones of one clip, from 1."""
    config = generator.model.config.audio_encoder_config
    _, (heard,) = generator.encode_with_ctc(
        [log_mel(samples, config.n_mels, floor=config.mel_floor)]
    )
    return [int(phone) for phone, _ in groupby(heard.phones.argmax(-1).tolist()) if phone]


def phone_error_rate(
    generator: Generator, lexicon: Lexicon, rows: Sequence[ManifestRow]
) -> tuple[float, int]:
    """Rate over all rows whose words are known, and the number of phones."""
    store = SampleStore()
    references, texts = [], []
    for row in rows:
        if spoken := lexicon.targets(row.text):
            references.append(" ".join(PHONES[phone - 1].lower() for phone in spoken))
            heard = phones_heard(generator, torch.from_numpy(store.load(row)))
            texts.append(" ".join(PHONES[phone - 1].lower() for phone in heard))
    return word_error_rate(references, texts).rate, sum(len(r.split()) for r in references)


def main() -> None:
    """Print a line for every manifest."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--source", default="", help="only rows whose source contains this")
    parser.add_argument("--lexicon", type=Path, default=Path(".data/nano/cmudict.dict.gz"))
    args = parser.parse_args()
    generator = Generator(load_pretrained(args.model, device="cpu")[0])
    lexicon = Lexicon.read(args.lexicon)
    for path in args.manifests:
        rows = [row for row in read_manifest(path) if args.source in (row.source or "")]
        rate, count = phone_error_rate(generator, lexicon, rows[: args.limit])
        print(f"{path.name:28}{100 * rate:6.1f} % of {count} phones", flush=True)


if __name__ == "__main__":
    main()
