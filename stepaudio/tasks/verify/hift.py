"""HiFT vocoder against the reference (specification, sections 10 and 13)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stepaudio.models.token2wav.hift import Excitation, load_hift
from stepaudio.models.token2wav.hift_config import HiftConfig
from stepaudio.tasks.verify.checks import Check, Component, compare
from stepaudio.tasks.verify.vectors import VectorFolder

TOLERANCE = 1e-4
FILE = "hift_vectors"


@torch.inference_mode()
def run(vectors: VectorFolder) -> Iterator[Check]:
    """Compare F0, the source without noise, and waveforms from three sources."""
    parts = vectors.values("hift_config")
    config = HiftConfig.from_dict({**parts["hift"], "f0_predictor": parts["f0_predictor"]})
    vocoder = load_hift(vectors.weights("hift"), config)
    mel = vectors.tensor(FILE, "mel")
    lens = [mel.shape[-1]] * len(mel)
    cached = list(vectors.tensor(FILE, "cache_source"))
    wav, source = vocoder(mel, lens, Excitation())
    continued, continued_source = vocoder(mel, lens, Excitation(cached=cached))
    ours = {
        "f0": vocoder.f0_predictor(mel, lens)[:, 0],
        "source_norandom": source,
        "wav_norandom": wav,
        "source_cached": continued_source,
        "wav_cached": continued,
        "wav_given": vocoder.decode(mel, vectors.tensor(FILE, "source_given"), lens),
    }
    for name, values in ours.items():
        yield compare(f"{FILE}/{name}", values, vectors.tensor(FILE, name), TOLERANCE)


HIFT = Component("vocoder", run)
