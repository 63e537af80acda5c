"""Which tokens may come next: the layout of speech whose text is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stepaudio.text.vocab import CODES_PER_GROUP, Vocabulary


class TokenConstraint(Protocol):
    """Decides from what was generated; it keeps no state, so that any number may share it."""

    def allowed(self, ids: Sequence[int]) -> Sequence[range]:
        """Tokens that may follow the generated `ids`; at least one."""
        ...


@dataclass(frozen=True)
class GivenText:
    """Speech that says a given text: the model chooses audio codes, and when to end.

    Groups of one text token and four codes follow each other, as `interleave` arranges them. The
    text tokens are those of the text; behind it the model goes on or ends.

    Attributes:
        text_ids: tokens of the text.
        vocab: ids of the codes and marks.
    """

    text_ids: tuple[int, ...]
    vocab: Vocabulary

    def allowed(self, ids: Sequence[int]) -> Sequence[range]:
        """See `TokenConstraint`."""
        vocab = self.vocab
        group, place = divmod(len(ids), CODES_PER_GROUP + 1)
        if place:
            return (range(vocab.audio_0, vocab.audio_0 + vocab.num_codes),)
        if group < len(self.text_ids):
            token = self.text_ids[group]
            return (range(token, token + 1),)
        return (
            range(vocab.tts_end, vocab.tts_end + 1),
            range(vocab.tts_pad, vocab.tts_pad + 1),
        )


@dataclass(frozen=True)
class TextOnly:
    """Text and ends of messages, for adapters that were trained on text alone.

    Attributes:
        text_size: ids below this one are allowed.
    """

    text_size: int

    def allowed(self, ids: Sequence[int]) -> Sequence[range]:
        """See `TokenConstraint`."""
        return (range(self.text_size),)
