"""Where an answer copies from: the places that guided heads of a dialogue model look at.

A small decoder needs many thousand updates to find out that it can copy a word out of its prompt.
Here every token of an answer that stands in the conversation before it is aligned with its source,
and every letter of a spelled word with the token that holds it.

Shape legend: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

import torch
from torch import Tensor

from stepaudio_recipes.guided_attention import AttentionProbe, GuideConfig

FREE = -1  # a token that may look anywhere
_LEADING_TOKENS = 4
_SMALLEST = 1e-6


@dataclass(frozen=True)
class CopyAligner:
    """Aligns answers with the conversation before them.

    Attributes:
        bot: token that begins a message.
        call: token that begins a tool call; None: there is none.
        piece: text of a token.
    """

    bot: int
    call: int | None
    piece: Callable[[int], str]

    def places(self, ids: Sequence[int], counts: Sequence[bool]) -> list[int]:
        """For every token, where the source of the next one is, or `FREE`.

        Args:
            ids: a conversation.
            counts: tokens of answers.
        """
        places = [FREE] * len(ids)
        position = 0
        for is_answer, run in groupby(counts):
            start, position = position, position + len(list(run))
            if is_answer:
                # What was answered before is no source, or refusals would copy refusals.
                sources = [FREE if c else i for i, c in zip(ids, counts, strict=True)][:start]
                self._align(ids, sources, (start, position), places)
        return places

    def _align(
        self,
        ids: Sequence[int],
        sources: Sequence[int],
        answer: tuple[int, int],
        places: list[int],
    ) -> None:
        start, stop = answer
        begins = [index for index in range(start) if ids[index] == self.bot]
        question = begins[-2] if len(begins) > 1 else 0
        if self._align_letters(ids, start, stop, question, places):
            return
        is_call = ids[start] == self.call
        index = start
        while index < stop:
            length, source = _longest_match(sources, ids[index:stop])
            # One token occurs by chance, unless an answer begins with a word of the question, or
            # a call takes it as an argument.
            near = source >= question and (is_call or index < start + _LEADING_TOKENS)
            if length > 1 or (length == 1 and near):
                for offset in range(length):
                    places[index + offset - 1] = source + offset
            index += max(length, 1)

    def _align_letters(
        self, ids: Sequence[int], start: int, stop: int, question: int, places: list[int]
    ) -> bool:
        """Align a spelled word; False if the answer is none."""
        letters = [self.piece(i).strip() for i in ids[start : stop - 1]]
        if len(letters) < 2 or not all(len(letter) == 1 for letter in letters):
            return False
        word = "".join(letters)
        for first in range(question, start):
            left, used = word, first
            while left and used < start:
                piece = self.piece(ids[used]).strip()
                if not piece or not left.startswith(piece):
                    break
                for offset in range(len(piece)):
                    places[start + len(word) - len(left) + offset - 1] = used
                left, used = left[len(piece) :], used + 1
            if not left:
                return True
        places[start - 1 : stop - 1] = [FREE] * (stop - start)
        return False


def _longest_match(sources: Sequence[int], wanted: Sequence[int]) -> tuple[int, int]:
    """Length and begin of the longest, then latest run of sources that begins what is wanted."""
    longest, where = 0, 0
    for source in range(len(sources)):
        pairs = zip(sources[source:], wanted, strict=False)
        length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if length and length >= longest:
            longest, where = length, source
    return longest, where


def copy_loss(
    probe: AttentionProbe,
    backbone: torch.nn.Module,
    config: GuideConfig,
    positions: Tensor,
    places: Tensor,
) -> Tensor:
    """Mean negative logarithm of the attention of guided heads to the places of their sources.

    Args:
        probe: has watched the forward pass.
        backbone: the decoder.
        config: which heads.
        positions: [B, T]; a packed conversation begins where they return to 0.
        places: [B, T], see `CopyAligner`.
    """
    size = places.shape[1]
    segments = (positions == 0).cumsum(-1)
    visible = segments[:, :, None] == segments[:, None, :]
    visible &= ~torch.ones(size, size, dtype=torch.bool, device=places.device).triu(1)
    guided = places >= 0
    losses = []
    for index in config.layers:
        attention = backbone.get_submodule(f"layers.{index}.self_attn")
        logits = probe.logits(attention, index, config.head)  # type: ignore[arg-type]
        weights = logits.masked_fill(~visible, float("-inf")).softmax(-1)
        found = weights.gather(2, places.clamp(min=0)[:, :, None])[:, :, 0]
        losses.append(-found[guided].clamp(min=_SMALLEST).log().mean())
    return torch.stack(losses).mean()
