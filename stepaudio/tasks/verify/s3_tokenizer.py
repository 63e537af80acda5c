"""S3 tokenizer against the reference (specification, sections 10 and 13)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stepaudio.models.token2wav.s3_tokenizer import S3Config, load_s3_tokenizer
from stepaudio.tasks.verify.checks import Check, Component, compare, identical
from stepaudio.tasks.verify.vectors import VectorFolder

TOLERANCE = 1e-4
FILE = "s3_vectors"


@torch.inference_mode()
def run(vectors: VectorFolder) -> Iterator[Check]:
    """Compare the encoder's frames, their projection, and the codes, inside each row's length."""
    values = vectors.values("s3_config")
    config = S3Config.from_dict({k: v for k, v in values.items() if k != "note"})
    tokenizer = load_s3_tokenizer(vectors.weights("s3"), config)
    mel, mel_len = vectors.tensor(FILE, "mel"), vectors.tensor(FILE, "mel_len")
    frames, lens = tokenizer.encoder(mel, mel_len)
    codes, _ = tokenizer.encode(mel, mel_len)
    yield identical(f"{FILE}/hidden_len", lens, vectors.tensor(FILE, "hidden_len"))
    yield identical(f"{FILE}/codes_len", lens, vectors.tensor(FILE, "codes_len"))
    inside = torch.arange(frames.shape[1]) < lens[:, None]
    ours = {"hidden": frames, "project_down": tokenizer.codebook.project_down(frames)}
    for name, numbers in ours.items():
        reference = vectors.tensor(FILE, name)
        yield compare(f"{FILE}/{name}", numbers[inside], reference[inside], TOLERANCE)
    reference = vectors.tensor(FILE, "codes")
    yield identical(f"{FILE}/codes", codes[inside], reference[inside])


S3_TOKENIZER = Component("S3 tokenizer", run)
