"""The items of a session in order: inserted, retrieved, truncated, deleted."""

from __future__ import annotations

from stepaudio.errors import RequestError
from stepaudio_streaming.protocol.items import Item

ROOT = "root"
MAX_ITEMS = 10_000
# A client that reckons by its wall clock says a little more than there was. That is no reason for
# an error, on which some clients give up the session.
_OVERSHOOT_MS = 500


class Conversation:
    """Items in order, with a bound on the audio that is kept of them.

    Args:
        conversation_id: its id.
        max_audio_bytes: where more is kept, the audio of the oldest items is dropped.
    """

    def __init__(self, conversation_id: str, *, max_audio_bytes: int) -> None:
        self.id = conversation_id
        self._max_audio_bytes = max_audio_bytes
        self._order: list[str] = []
        self._items: dict[str, Item] = {}

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    @property
    def items(self) -> list[Item]:
        """All items in order."""
        return [self._items[item_id] for item_id in self._order]

    @property
    def last_id(self) -> str | None:
        """Id of the last item."""
        return self._order[-1] if self._order else None

    def check_new(self, item_id: str, previous_item_id: str | None) -> None:
        """Make sure that an item can be inserted.

        Raises:
            RequestError: its id exists already, its predecessor does not, or there are too many.
        """
        if item_id in self._items:
            raise RequestError(
                f"Error adding item: an item with ID '{item_id}' already exists.",
                code="item_create_duplicate_item_id",
                param="item.id",
            )
        if previous_item_id not in (None, ROOT) and previous_item_id not in self._items:
            raise RequestError(
                f"Error adding item: the previous item with ID '{previous_item_id}' does not "
                "exist.",
                code="item_create_invalid_previous_item_id",
                param="previous_item_id",
            )
        if len(self._order) >= MAX_ITEMS:
            raise RequestError(
                f"Error adding item: a conversation has at most {MAX_ITEMS} items.",
                code="too_many_items",
                param="item",
            )

    def insert(self, item: Item, previous_item_id: str | None = None) -> str | None:
        """Add an item.

        Args:
            item: the new one.
            previous_item_id: None: at the end; "root": in front of all.

        Returns:
            Id of the item before it.

        Raises:
            RequestError: see `check_new`.
        """
        self.check_new(item.id, previous_item_id)
        if previous_item_id is None:
            position = len(self._order)
        elif previous_item_id == ROOT:
            position = 0
        else:
            position = self._order.index(previous_item_id) + 1
        self._order.insert(position, item.id)
        self._items[item.id] = item
        self._drop_old_audio()
        return self._order[position - 1] if position else None

    def previous_id(self, item_id: str) -> str | None:
        """Id of the item before an existing one."""
        position = self._order.index(item_id)
        return self._order[position - 1] if position else None

    def get(self, item_id: str) -> Item | None:
        """Find an item."""
        return self._items.get(item_id)

    def require(self, item_id: str, *, doing: str, code: str) -> Item:
        """Find an item.

        Raises:
            RequestError: there is none of this id.
        """
        item = self._items.get(item_id)
        if item is None:
            raise RequestError(
                f"Error {doing} item: the item with ID '{item_id}' does not exist.",
                code=code,
                param="item_id",
            )
        return item

    def remove(self, item_id: str) -> None:
        """Delete an item.

        Raises:
            RequestError: there is none of this id.
        """
        self.require(item_id, doing="deleting", code="item_delete_invalid_item_id")
        self._order.remove(item_id)
        del self._items[item_id]

    def check_truncation(self, item_id: str, content_index: int, audio_end_ms: int) -> int:
        """Make sure that a spoken answer can be cut.

        Returns:
            Where, in ms.

        Raises:
            RequestError: there is no such item, it is not a spoken answer, or it is shorter.
        """
        item = self.require(item_id, doing="truncating", code="item_truncate_invalid_item_id")
        parts = item.content if item.type == "message" and item.role == "assistant" else []
        if content_index >= len(parts) or parts[content_index].type != "output_audio":
            raise RequestError(
                "Only audio of assistant messages can be truncated.",
                code="invalid_value",
                param="content_index" if parts else "item_id",
            )
        length_ms = parts[content_index].audio_ms
        if audio_end_ms > length_ms + _OVERSHOOT_MS:
            raise RequestError(
                f"Audio content of {length_ms:.0f}ms is already shorter than {audio_end_ms}ms",
                code="invalid_value",
                param="audio_end_ms",
            )
        return min(audio_end_ms, int(length_ms))

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        """Cut a spoken answer to what was heard; its transcript is dropped."""
        part = self._items[item_id].content[content_index]
        part.audio_ms, part.transcript = audio_end_ms, None

    def _drop_old_audio(self) -> None:
        excess = sum(item.audio_bytes for item in self._items.values()) - self._max_audio_bytes
        for item in self.items[:-1]:
            if excess <= 0:
                return
            excess -= item.audio_bytes
            for part in item.content:
                part.audio = None
