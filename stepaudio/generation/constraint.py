"""Which tokens may come next: the layout of speech, of given texts, and of calls."""

from __future__ import annotations

import itertools
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
class HoldLimit:
    """How long few codes may alternate: cold sampling falls into silence and stays there.

    Attributes:
        num_codes: latest codes that count as a hold.
        variety: if they have so many different values at most. These may not come next then.
        min_speech: once there are so many codes, a hold is the end of the speech.
    """

    num_codes: int
    variety: int
    min_speech: int

    def held(self, codes: Sequence[int]) -> frozenset[int]:
        """Values of the latest codes if they are a hold, else none."""
        if len(codes) < self.num_codes:
            return frozenset()
        latest = frozenset(codes[-self.num_codes :])
        return latest if len(latest) <= self.variety else frozenset()


@dataclass(frozen=True)
class GivenText:
    """Speech that says a given text: the model chooses audio codes, and when to end.

    Groups of one text token and four codes follow each other, as `interleave` arranges them. The
    text tokens are those of the text; behind it the model goes on or ends.

    Attributes:
        text_ids: tokens of the text.
        vocab: ids of the codes and marks.
        hold: how long few codes may alternate; None: for ever.
    """

    text_ids: tuple[int, ...]
    vocab: Vocabulary
    hold: HoldLimit | None = None

    def allowed(self, ids: Sequence[int]) -> Sequence[range]:
        """See `TokenConstraint`."""
        vocab = self.vocab
        group, place = divmod(len(ids), CODES_PER_GROUP + 1)
        if place:
            codes = range(vocab.audio_0, vocab.audio_0 + vocab.num_codes)
            return _without(codes, self._held(ids)) or (codes,)
        if group < len(self.text_ids):
            token = self.text_ids[group]
            return (range(token, token + 1),)
        end = range(vocab.tts_end, vocab.tts_end + 1)
        num_codes = group * CODES_PER_GROUP
        if self.hold is not None and num_codes >= self.hold.min_speech and self._held(ids):
            return (end,)
        return (end, range(vocab.tts_pad, vocab.tts_pad + 1))

    def _held(self, ids: Sequence[int]) -> frozenset[int]:
        """Tokens of the codes that are held."""
        if self.hold is None:
            return frozenset()
        groups = -(-self.hold.num_codes // CODES_PER_GROUP) + 1
        recent = ids[-groups * (CODES_PER_GROUP + 1) :]
        return self.hold.held([token for token in recent if self.vocab.is_audio(token)])


def _without(ids: range, banned: frozenset[int]) -> tuple[range, ...]:
    """What is left of consecutive ids."""
    edges = [ids.start - 1, *sorted(banned), ids.stop]
    gaps = (range(first + 1, stop) for first, stop in itertools.pairwise(edges))
    return tuple(gap for gap in gaps if gap)


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


@dataclass(frozen=True)
class SpeechGroups:
    """Speech as the models are trained to write it, whatever their weights make of it.

    Groups of one text token and four audio tokens follow each other until ``<tts_end>``; behind it,
    or behind the mark of a tool call, there is text. Tokens that stand for what the program writes
    into prompts never come. Only the latest few tokens are looked at.

    Attributes:
        vocab: ids of the codes and marks.
    """

    vocab: Vocabulary

    def allowed(self, ids: Sequence[int]) -> Sequence[range]:
        """See `TokenConstraint`."""
        vocab = self.vocab
        text = range(vocab.text_size)
        recent = ids[-CODES_PER_GROUP - 1 :]
        num_audio = 0
        while num_audio < len(recent) and vocab.is_audio(recent[-1 - num_audio]):
            num_audio += 1
        end = range(vocab.tts_end, vocab.tts_end + 1)
        if not ids or num_audio >= CODES_PER_GROUP:
            return (text, end, range(vocab.tts_pad, vocab.tts_pad + 1))
        if num_audio == 0 and self._is_behind_speech(ids):
            return (text,)
        return (end, range(vocab.audio_0, vocab.audio_pad + 1))

    def _is_behind_speech(self, ids: Sequence[int]) -> bool:
        """Whether the last token, which is no audio, is not the text token of a group."""
        if ids[-1] in (self.vocab.tts_end, self.vocab.tool_call):
            return True
        return len(ids) > 1 and not self.vocab.is_audio(ids[-2])


@dataclass(frozen=True)
class OneOf:
    """Text that begins with one of some token sequences, and then goes on freely.

    Attributes:
        beginnings: token sequences; at least one, none empty.
        text_size: ids below this one are text.
    """

    beginnings: tuple[tuple[int, ...], ...]
    text_size: int

    def allowed(self, ids: Sequence[int]) -> Sequence[range]:
        """See `TokenConstraint`."""
        given = tuple(ids[: max(map(len, self.beginnings))])
        # Whoever has followed one to its end is free, though a longer one may begin likewise.
        if not any(given[: len(one)] == one for one in self.beginnings):
            following = {one[len(given)] for one in self.beginnings if one[: len(given)] == given}
            if following:
                return tuple(range(token, token + 1) for token in sorted(following))
        return (range(self.text_size),)
