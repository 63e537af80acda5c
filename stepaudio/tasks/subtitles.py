"""Segments as SubRip (srt) and WebVTT (vtt) subtitles.

A long segment is spread over several cues of at most two lines. Where the times of its words are
known, a cue lasts from its first word to its last; otherwise the segment's time is divided in
proportion to the characters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from stepaudio.tasks.transcript import Segment, Word

LINE_CHARACTERS = 42
CUE_LINES = 2
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
    for segment in segments:
        lines = textwrap.wrap(segment.text, LINE_CHARACTERS)
        blocks = [tuple(lines[i : i + CUE_LINES]) for i in range(0, len(lines), CUE_LINES)]
        # Where a line breaks inside a word, the words do not tell its time.
        if segment.words and sum(len(line.split()) for line in lines) == len(segment.words):
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
