"""The engine's conversation, and what counts as heard."""

from __future__ import annotations

import pytest

from stepaudio_streaming.engine.history import Entry, History, SpokenPhrase


def spoken(*phrases: SpokenPhrase) -> History:
    history = History()
    text = " ".join(phrase.text for phrase in phrases)
    history.append(Entry("a", "assistant", text, spoken=True, phrases=list(phrases)))
    return history


@pytest.mark.parametrize(
    ("played_ms", "heard"),
    [
        (0, ""),
        (399, ""),
        (400, "one"),
        (1999, "one two three"),
        (2000, "one two three four"),
        (2100, "one two three four"),
        (2999, "one two three four"),
        (3229, "one two three four five"),
        (99_999, "one two three four five six"),
    ],
)
def test_words_count_that_were_heard_to_their_end(played_ms: int, heard: str) -> None:
    history = spoken(
        SpokenPhrase("one two three four", 0.0, 9000.0, length_ms=2000.0),
        SpokenPhrase("five six", 2200.0, 1800.0),
    )
    history.cut("a", played_ms)
    assert history.entries[0].content == heard


def test_a_later_cut_replaces_an_earlier_one() -> None:
    history = spoken(SpokenPhrase("one two", 0.0, 1000.0, length_ms=1000.0))
    history.cut("a", 0)
    assert history.entries[0].content == "" and not history.entries[0].is_whole
    history.cut("a", 1000)
    assert history.entries[0].content == "one two"


def test_written_answers_are_not_cut() -> None:
    history = History()
    history.append(Entry("a", "assistant", "one two"))
    history.cut("a", 0)
    assert history.entries[0].content == "one two"


def test_items_are_inserted_where_they_belong() -> None:
    history = History()
    for item_id in ("a", "b"):
        history.append(Entry(item_id, "user", item_id))
    history.insert([Entry("front", "user", "")], None)
    history.insert([Entry("middle", "user", "")], "a")
    history.insert([Entry("end", "user", "")], "unknown")
    assert [entry.item_id for entry in history.entries] == ["front", "a", "middle", "b", "end"]


def test_memory_is_bounded() -> None:
    history = History(max_entries=3)
    for number in range(10):
        history.append(Entry(str(number), "user", "x"))
    assert [entry.item_id for entry in history.entries] == ["7", "8", "9"]
