"""Phones as a second CTC target of the encoder.

English spelling hides which sounds are alike. A small encoder that must only spell learns sentences
by heart instead; a second head that names the phones gives it sounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepaudio.models.encoder import Latents
from stepaudio.training.losses import ctc_loss
from stepaudio_recipes.lexicon import Lexicon


def phone_loss(posteriors: Latents, lexicon: Lexicon, texts: Sequence[str]) -> Tensor:
    """Mean CTC loss per phone over the clips whose words are all known; zero if there are none.

    Args:
        posteriors: log-probabilities of the phone head for the clips.
        lexicon: pronunciations.
        texts: transcript of every clip.
    """
    known = [(row, ids) for row, text in enumerate(texts) if (ids := lexicon.targets(text))]
    if not known:
        return posteriors.values.sum() * 0.0
    device = posteriors.values.device
    targets = torch.zeros(len(known), max(len(ids) for _, ids in known), dtype=torch.long)
    for index, (_, ids) in enumerate(known):
        targets[index, : len(ids)] = torch.tensor(ids)
    rows = torch.tensor([row for row, _ in known], device=device)
    lens = torch.tensor([len(ids) for _, ids in known], device=device)
    chosen = Latents(posteriors.values[rows], posteriors.lengths[rows])
    return ctc_loss(chosen, targets.to(device), lens)
