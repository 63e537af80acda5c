"""Log-mel spectrogram against the reference (specification, sections 1 and 13)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from stepaudio.audio.frames import FrameGeometry, num_mel_frames
from stepaudio.audio.mel import log_mel, mel_filters
from stepaudio.tasks.verify.checks import Check, Component, compare, compare_spectrum, identical
from stepaudio.tasks.verify.vectors import VectorFolder

TOLERANCE = 1e-5


def run(vectors: VectorFolder) -> Iterator[Check]:
    """Compare frame counts, filter bank, and the mel of whole seconds and of an odd length."""
    yield from _counts(vectors)
    filters = vectors.tensor("mel_extra", "filters_128")
    yield compare("mel_extra/filters_128", mel_filters(len(filters)), filters, TOLERANCE)
    wav = vectors.array("wav_3s_16k").flatten().float()
    reference = vectors.array("mel_3s_128")
    yield from _compare("mel_3s_128", log_mel(wav, len(reference)), reference)
    unpadded = vectors.tensor("mel_extra", "mel_3s_nopad")
    ours = log_mel(wav, len(unpadded), padding=0)
    yield from _compare("mel_extra/mel_3s_nopad", ours, unpadded)
    odd = vectors.tensor("mel_extra", "mel_odd")
    wav = vectors.tensor("mel_extra", "wav_odd").flatten()
    yield from _compare("mel_extra/mel_odd", log_mel(wav, len(odd)), odd)


def _counts(vectors: VectorFolder) -> Iterator[Check]:
    """Frames and tokens of clips; the vLLM fork does not mask the two tail frames."""
    rows = vectors.values("token_counts")
    samples = [row["samples"] for row in rows]
    geometry = FrameGeometry()
    frames = [num_mel_frames(count) for count in samples]
    ours = {
        "mel_frames": frames,
        "audio_tokens": [geometry.tokens_for_samples(count) for count in samples],
        "audio_tokens_vllm_fork": [geometry.tokens(count) for count in frames],
    }
    for name, counts in ours.items():
        yield identical(f"token_counts/{name}", counts, [row[name] for row in rows])


def _compare(name: str, ours: Tensor, reference: Tensor) -> Iterator[Check]:
    """Compare log-mels [bands, frames], which are (log10(power) + 4) / 4."""
    decades = 4 * (reference.amax(0) - reference)
    return compare_spectrum(name, ours, reference, TOLERANCE, decades=decades, decades_per_unit=4.0)


MEL = Component("mel", run)
