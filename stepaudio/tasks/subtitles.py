"""Segments as SubRip (srt) and WebVTT (vtt) subtitles.

A long segment is spread over several cues of at most two lines of about the same length. Where the
times of its words are known, a cue lasts from its first word to its last; otherwise the segment's
time is divided in proportion to the characters. A cue that would be gone before it can be read
stays as long as there is room before the next one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from stepaudio.tasks.transcript import Segment, Word

LINE_CHARACTERS = 42
CUE_LINES = 2
READING_SPEED = 17  # characters a second, as is usual for adults
MIN_CUE_MS = 1000
_MS_PER_HOUR = 3_600_000
_MS_PER_MINUTE = 60_000


@dataclass(frozen=True)
class Cue:
    """One subtitle: `start_ms` < `end_ms`, and its lines."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def cues(segments: Iterable[Segment]) -> Iterator[Cue]:
    """Cut segments into cues; those without text give none."""
    waiting: Cue | None = None
    for cue in _exact_cues(segments):
        if waiting is not None:
            yield _readable(waiting, cue.start_ms)
        waiting = cue
    if waiting is not None:
        yield _readable(waiting, None)


def _readable(cue: Cue, following_ms: int | None) -> Cue:
    """The cue with more time to read it, up to where the next one begins."""
    characters = sum(map(len, cue.lines))
    wanted = cue.start_ms + max(1000 * characters // READING_SPEED, MIN_CUE_MS)
    if following_ms is None:  # nothing is known about the time behind the speech
        wanted = min(wanted, cue.end_ms + MIN_CUE_MS)
    else:
        wanted = min(wanted, following_ms)
    return replace(cue, end_ms=max(cue.end_ms, wanted))


def _exact_cues(segments: Iterable[Segment]) -> Iterator[Cue]:
    for segment in segments:
        lines = textwrap.wrap(segment.text, LINE_CHARACTERS)
        blocks = [_balanced(lines[i : i + CUE_LINES]) for i in range(0, len(lines), CUE_LINES)]
        # Where a line breaks inside a word, or the text is written otherwise than spoken, the words
        # do not tell its time.
        if [word.text.lower() for word in segment.words] == _plain_words(lines):
            yield from _timed_cues(segment.words, blocks)
            continue
        sizes = [sum(map(len, block)) for block in blocks]
        start, end = round(1000 * segment.start), round(1000 * segment.end)
        done = 0
        for block, size in zip(blocks, sizes, strict=True):
            first = start + max(end - start, 0) * done // sum(sizes)
            done += size
            last = start + max(end - start, 0) * done // sum(sizes)
            yield Cue(first, max(last, first + 1), block)


def _plain_words(lines: Iterable[str]) -> list[str]:
    return [word.strip(".?").lower() for line in lines for word in line.split()]


def _balanced(lines: Sequence[str]) -> tuple[str, ...]:
    """Lines of about the same length, if they need not be more for that."""
    text = " ".join(lines)
    for width in range(-(-len(text) // max(len(lines), 1)), LINE_CHARACTERS):
        again = textwrap.wrap(text, width, break_long_words=False)
        if len(again) <= len(lines) and max(map(len, again)) <= LINE_CHARACTERS:
            return tuple(again)
    return tuple(lines)


def _timed_cues(words: Sequence[Word], blocks: Sequence[tuple[str, ...]]) -> Iterator[Cue]:
    first = 0
    for block in blocks:
        last = first + sum(len(line.split()) for line in block)
        start, end = round(1000 * words[first].start), round(1000 * words[last - 1].end)
        yield Cue(start, max(end, start + 1), block)
        first = last


def to_srt(segments: Iterable[Segment]) -> str:
    """SubRip file: numbered cues; empty without speech."""
    return "\n".join(
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{_text(cue)}\n"
        for number, cue in enumerate(cues(segments), start=1)
    )


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT file; its header alone without speech."""
    return "WEBVTT\n" + "".join(
        f"\n{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{_escaped(_text(cue))}\n"
        for cue in cues(segments)
    )


def _clock(time_ms: int, point: str) -> str:
    hours, rest = divmod(time_ms, _MS_PER_HOUR)
    minutes, rest = divmod(rest, _MS_PER_MINUTE)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _text(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
