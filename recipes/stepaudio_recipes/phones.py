"""Phones as a second CTC target inside the encoder, for training only.

English spelling hides which sounds are alike. A small encoder that must spell from the start
learns sentences by heart instead; phones in its middle give it sounds first, and the layers above
them the spelling. The head is not part of the model that is written.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stepaudio.errors import ConfigError
from stepaudio.models.encoder import Latents
from stepaudio.training.losses import ctc_loss

# ARPAbet without stress, in the order of their CTC indices from 1.
PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH",
    "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
_INDEX = {phone: index for index, phone in enumerate(PHONES, 1)}
_HISSING = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}


class Lexicon:
    """Pronunciations of words."""

    def __init__(self, entries: Mapping[str, Sequence[str]]) -> None:
        """Take phones (of `PHONES`) by word."""
        self._entries = entries

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Read a gzip dictionary in the format of cmudict; the first pronunciation counts.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        try:
            lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        except (OSError, EOFError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; run the prepare recipe first") from error
        entries: dict[str, tuple[str, ...]] = {}
        for line in lines:
            word, *phones = line.split("#")[0].split()
            entries.setdefault(word, tuple(phone.rstrip("012") for phone in phones))
        return cls(entries)

    def phones(self, word: str) -> tuple[str, ...] | None:
        """Phones of a word, or None where it is unknown; a possessive follows its noun."""
        if word in self._entries:
            return tuple(self._entries[word])
        noun = word.removesuffix("'s")
        if noun == word or noun not in self._entries:
            return None
        stem = tuple(self._entries[noun])
        if stem[-1] in _HISSING:
            return (*stem, "IH", "Z")
        return (*stem, "S" if stem[-1] in _VOICELESS else "Z")

    def targets(self, text: str) -> list[int]:
        """CTC indices of a text's phones; empty where a word of it is unknown."""
        indices: list[int] = []
        for word in text.split():
            phones = self.phones(word)
            if phones is None:
                return []
            indices += [_INDEX[phone] for phone in phones]
        return indices


class PhoneHead(nn.Module):
    """Phone posteriors from frames inside the encoder, several CTC frames for each of them."""

    def __init__(self, width: int, upsample: int) -> None:
        super().__init__()
        self.upsample = upsample
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, upsample * (len(PHONES) + 1))

    def forward(self, frames: Tensor, lengths: Tensor) -> Latents:
        """Log-probabilities [B, S * upsample, 1 + phones] of frames [B, S, D]."""
        logits = self.proj(self.norm(frames)).unflatten(-1, (self.upsample, -1)).flatten(1, 2)
        return Latents(logits.float().log_softmax(-1), lengths * self.upsample)


def phone_loss(posteriors: Latents, lexicon: Lexicon, texts: Sequence[str]) -> Tensor:
    """Mean CTC loss per phone over the clips whose words are all known; zero if there are none.

    Args:
        posteriors: log-probabilities of a `PhoneHead` for the clips.
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
