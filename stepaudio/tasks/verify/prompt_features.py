"""Features of a voice prompt against the reference (specification, sections 10 and 13)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stepaudio.audio.prompt_features import VoiceMel, fade_window, kaldi_fbank
from stepaudio.tasks.verify.checks import Check, Component, compare, compare_spectrum
from stepaudio.tasks.verify.vectors import VectorFolder

TOLERANCE = 1e-4
FILE = "prompt_features"
_DECADES_PER_NEPER = math.log10(math.e)


def run(vectors: VectorFolder) -> Iterator[Check]:
    """Compare the 24 kHz mel, the Kaldi filter bank with and without mean, the fade window."""
    reference = vectors.tensor(FILE, "prompt_mel80")
    ours = VoiceMel(num_mels=reference.shape[-2])(vectors.tensor(FILE, "wav24k"))
    yield compare(f"{FILE}/prompt_mel80", ours, reference, TOLERANCE)
    wav = vectors.tensor(FILE, "wav16k")[0]
    energies = vectors.tensor(FILE, "fbank80")  # natural logarithms of powers
    decades = (energies.amax(1, keepdim=True) - energies) * _DECADES_PER_NEPER
    for name, subtract_mean in (("fbank80", False), ("fbank80_cmn", True)):
        reference = vectors.tensor(FILE, name)
        ours = kaldi_fbank(wav, reference.shape[-1], subtract_mean=subtract_mean)
        yield from compare_spectrum(
            f"{FILE}/{name}",
            ours,
            reference,
            TOLERANCE,
            decades=decades,
            decades_per_unit=_DECADES_PER_NEPER,
        )
    window = vectors.tensor(FILE, "speech_window")
    yield compare(f"{FILE}/speech_window", fade_window(len(window) // 2), window, TOLERANCE)


PROMPT_FEATURES = Component("prompt features", run)
