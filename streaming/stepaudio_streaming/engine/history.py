"""The conversation of one session as the engine keeps it, and what of it was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepaudio_streaming.events import ContextItem, ItemKind


@dataclass
class SpokenPhrase:
    """One phrase of a spoken answer.

    Attributes:
        text: what is said.
        start_ms: where it begins in the sound of the answer.
        expected_ms: how long it should last.
        length_ms: how long it lasts; None: it is not complete.
        told: some of its sound was sent.
    """

    text: str
    start_ms: float
    expected_ms: float
    length_ms: float | None = None
    told: bool = False

    def heard(self, played_ms: float) -> str:
        """Words that were heard to their end when so much of the answer had been played."""
        words = self.text.split()
        length_ms = self.expected_ms if self.length_ms is None else self.length_ms
        share = (played_ms - self.start_ms) / max(length_ms, 1.0)
        if self.length_ms is not None and share >= 1.0:
            return self.text
        total = sum(map(len, words))
        spoken = 0
        for index, word in enumerate(words):
            spoken += len(word)
            if spoken > share * total:
                return " ".join(words[:index])
        return self.text


@dataclass
class Entry:
    """One item of the conversation.

    Attributes:
        item_id: its id; empty: the client knows none.
        kind: who said it, or a function call or its result.
        text: its content; None: what was heard has not been understood yet.
        name: of a function.
        understood: false for speech that cannot be relied on.
        num_audio: audio tokens of what was heard.
        sounds: what the user said, where the model hears it itself.
        token_ids: what the model wrote.
        spoken: it is a spoken answer.
        is_complete: the answer has come to its end, and its function calls were made.
        phrases: of a spoken answer that was read aloud, as far as they have begun.
        cut_ms: no more than this was heard of a spoken answer.
    """

    item_id: str
    kind: ItemKind
    text: str | None = None
    name: str = ""
    understood: bool = True
    num_audio: int = 0
    sounds: tuple[Any, ...] = ()
    token_ids: tuple[int, ...] | None = None
    spoken: bool = False
    is_complete: bool = False
    phrases: list[SpokenPhrase] = field(default_factory=list)
    cut_ms: float | None = None

    @property
    def is_whole(self) -> bool:
        """Nothing of it was cut off."""
        return self.cut_ms is None

    @property
    def content(self) -> str:
        """What counts of it: for a spoken answer that was interrupted, what was heard."""
        if self.cut_ms is None:
            return self.text or ""
        heard = [phrase.heard(self.cut_ms) for phrase in self.phrases]
        return " ".join(part for part in heard if part)


class History:
    """Items in order; at most `max_entries`, then the oldest are forgotten."""

    def __init__(self, max_entries: int = 512) -> None:
        self.entries: list[Entry] = []
        self._max_entries = max_entries

    def append(self, entry: Entry) -> None:
        """Add an entry at the end."""
        self.entries.append(entry)
        del self.entries[: -self._max_entries]

    def insert(self, entries: Sequence[Entry], previous_item_id: str | None) -> None:
        """Add entries behind an item; None: in front of all. An unknown item means the end."""
        place = 0 if previous_item_id is None else len(self.entries)
        for index, known in enumerate(self.entries):
            if previous_item_id is not None and known.item_id == previous_item_id:
                # A message and the calls behind it came from one answer.
                place = index + 1
        self.entries[place:place] = entries
        del self.entries[: -self._max_entries]

    def remove(self, item_id: str) -> None:
        """Forget an item; an unknown one is none of ours."""
        self.entries = [entry for entry in self.entries if entry.item_id != item_id]

    def cut(self, item_id: str, played_ms: float) -> None:
        """So much of a spoken answer was heard; what was never heard was never said."""
        for entry in self.entries:
            if entry.item_id == item_id and entry.spoken:
                entry.cut_ms = played_ms

    def forget_oldest(self, count: int) -> None:
        """There is no room for so many of the oldest entries any more."""
        del self.entries[:count]

    def find(self, item_id: str) -> Entry | None:
        """Entry of an item."""
        return next((entry for entry in self.entries if entry.item_id == item_id), None)


def entry_of(item: ContextItem) -> Entry:
    """Entry of a new item without sound."""
    text = " ".join(part.text for part in item.parts if part.text)
    return Entry(item.item_id, item.kind, text, name=item.name)
