"""When every phone of a training recording is spoken, by forced alignment with a recogniser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import forced_align
from tqdm import tqdm

from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.text.manifest import ManifestRow
from stepaudio.training.data import BatchBuilder
from stepaudio_recipes.codes import CodeStore, row_key
from stepaudio_recipes.lexicon import Lexicon

_ROWS = 12
_SAVE_EVERY = 100  # batches

Frames = NDArray[np.int16]


def phone_frames(log_probs: Tensor, targets: Sequence[int]) -> Frames:
    """Frame in which each phone is recognised, int16 [phones]; empty if they do not fit.

    Args:
        log_probs: [T, 1 + phones] CTC posteriors.
        targets: CTC indices of the phones.
    """
    repeated = sum(a == b for a, b in pairwise(targets))
    if not targets or len(log_probs) < len(targets) + repeated:
        return np.zeros(0, np.int16)
    wanted = torch.tensor([list(targets)], dtype=torch.int32)
    path = forced_align(log_probs[None].float().cpu().contiguous(), wanted)[0][0].numpy()
    starts = (path != 0) & (path != np.concatenate([[0], path[:-1]]))
    return np.flatnonzero(starts).astype(np.int16)


def align_rows(
    model: StepAudio2ForCausalLM,
    rows: Iterable[ManifestRow],
    lexicon: Lexicon,
    store: CodeStore,
    name: str,
) -> None:
    """Align all rows that the store does not have yet; a killed run goes on where it stopped."""
    known = store.known(name)
    missing = [row for row in rows if row_key(row) not in known]
    missing.sort(key=lambda row: row.duration)
    builder = BatchBuilder(model.config.audio_encoder_config, None)
    groups = [missing[start : start + _ROWS] for start in range(0, len(missing), _ROWS)]
    for count, group in enumerate(tqdm(groups, desc="phone times", disable=None), 1):
        batch = builder.build(group, 0)
        with torch.inference_mode():
            encoded, _ = model.encode_audio(batch.mel, batch.mel_lens)
            posteriors = model.phone_head(encoded)
        triples = zip(group, posteriors.values, posteriors.lengths.tolist(), strict=True)
        for row, values, length in triples:
            known[row_key(row)] = phone_frames(values[:length], lexicon.targets(row.text))
        if count % _SAVE_EVERY == 0:
            store.write(name, known)
    if missing:
        store.write(name, known)


def time_store(folder: str | Path) -> CodeStore:
    """Where the frames of the phones are kept, by row."""
    return CodeStore(Path(folder) / "phone_times")
