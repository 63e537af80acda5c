"""Audio encoder and adaptor against the reference (specification, sections 2, 3 and 13)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stepaudio.audio.frames import FrameGeometry
from stepaudio.models.encoder import Latents
from stepaudio.tasks.verify.checks import Check, Component, compare, identical
from stepaudio.tasks.verify.reference_model import TOLERANCE, reference_model, single_clip
from stepaudio.tasks.verify.vectors import VectorFolder


def run_encoder(vectors: VectorFolder) -> Iterator[Check]:
    """Compare the encoder's stages for one clip, and its output for a padded batch."""
    clip = single_clip(vectors)
    for name in ("conv1", "conv2", "block0", "block_last"):
        reference = vectors.tensor("main_single", f"{name}_out")
        # The folder holds the first frames of some stages only.
        ours = clip.stages[name]
        if name.startswith("conv"):
            ours = ours[..., : reference.shape[-1]]
        yield compare(f"main_single/{name}_out", ours, reference, TOLERANCE)
    reference = vectors.tensor("main_single", "encoder_out")
    yield compare("main_single/encoder_out", clip.encoded.values, reference, TOLERANCE)
    lengths = vectors.tensor("main_single", "encoder_len")
    yield identical("main_single/encoder_len", clip.encoded.lengths, lengths)
    for file in ("main_single", "main_batch"):
        yield _longest(vectors, file)
    batch = _padded_batch(vectors)[0]
    reference = vectors.tensor("main_batch", "encoder_out")
    yield compare("main_batch/encoder_out", batch.values, reference, TOLERANCE)
    lengths = vectors.tensor("main_batch", "encoder_len")
    yield identical("main_batch/encoder_len", batch.lengths, lengths)


def run_adaptor(vectors: VectorFolder) -> Iterator[Check]:
    """Compare the adaptor's stages for one clip, and its output for a padded batch."""
    clip = single_clip(vectors)
    reference = vectors.tensor("main_single", "adapter_conv_out")
    ours = clip.stages["adapter_conv"]
    yield compare("main_single/adapter_conv_out", ours, reference, TOLERANCE)
    reference = vectors.tensor("main_single", "adapter_out")
    yield compare("main_single/adapter_out", clip.adapted.values, reference, TOLERANCE)
    batch = _padded_batch(vectors)[1]
    reference = vectors.tensor("main_batch", "adapter_out")
    yield compare("main_batch/adapter_out", batch.values, reference, TOLERANCE)
    lengths = vectors.tensor("main_batch", "n_tokens")
    yield identical("main_batch/n_tokens", batch.lengths, lengths)


def _longest(vectors: VectorFolder, file: str) -> Check:
    """The longest clip of a batch fills its mel but for the frames that are masked."""
    mel, mel_len = vectors.tensor(file, "mel"), vectors.tensor(file, "mel_len")
    longest = FrameGeometry().valid_mel_frames(mel.shape[-1])
    return identical(f"{file}/mel_len (longest)", [longest], mel_len.max())


@torch.inference_mode()
def _padded_batch(vectors: VectorFolder) -> tuple[Latents, Latents]:
    """Encoder frames and latents of the clips of ``main_batch``."""
    model = reference_model(vectors)
    return model.encode_audio(
        vectors.tensor("main_batch", "mel"), vectors.tensor("main_batch", "mel_len")
    )


ENCODER = Component("encoder", run_encoder)
ADAPTOR = Component("adaptor", run_adaptor)
