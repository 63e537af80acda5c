"""Batches of text for the decoder: transcripts rendered as answers, packed without padding."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepaudio.conversation import ChatTemplate, text_message
from stepaudio.errors import ConfigError

IGNORED_LABEL = -100


@dataclass(frozen=True)
class TextBatch:
    """Packed rows: ids, positions that restart at 0 with every text, and labels, all [B, T]."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor


def read_texts(path: Path) -> list[str]:
    """Lines of a gzip text file.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        return gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; run the prepare recipe first") from error


def text_batches(
    texts: Sequence[str], template: ChatTemplate, shape: tuple[int, int], seed: int
) -> Iterator[TextBatch]:
    """Endless packed batches of shape [rows, length], a pure function of the seed."""
    num_rows, length = shape
    epoch = 0
    rows: list[tuple[list[int], list[int], list[int]]] = []
    row: tuple[list[int], list[int], list[int]] = ([], [], [])
    while True:
        for index in np.random.default_rng((seed, epoch, 3)).permutation(len(texts)):
            message = text_message("assistant", texts[index], train=True)
            prompt = template.render([message], prime=False)
            row[0].extend(prompt.ids)
            row[1].extend(range(len(prompt.ids)))
            # The first token of a text must not be predicted from the text before it.
            masked = [False, *prompt.loss_mask[1:]]
            row[2].extend(
                i if m else IGNORED_LABEL for i, m in zip(prompt.ids, masked, strict=True)
            )
            if len(row[0]) < length:
                continue
            rows.append(row)
            row = ([], [], [])
            if len(rows) == num_rows:
                columns = [torch.tensor([r[k][:length] for r in rows]) for k in range(3)]
                yield TextBatch(*columns)
                rows = []
        epoch += 1
