"""A transcript as text, JSON, subtitles, or rows of a table."""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.subtitles import to_srt, to_vtt
from stepaudio.tasks.transcript import Segment, Transcript

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
_NUMBER_WIDTH = 8
_MIN_TEXT_WIDTH = 20
_GAP = "  "


@dataclass(frozen=True)
class Result:
    """One transcribed recording.

    Attributes:
        file: path as the user gave it.
        transcript: what was heard.
        model: model as the user named it.
        language: code of the spoken language, None if the model found it out.
        with_stats: JSON also says what decoding cost in detail.
    """

    file: str
    transcript: Transcript
    model: str
    language: str | None = None
    with_stats: bool = False


def render(kind: str, result: Result) -> str:
    """Content of a file in one of the formats of `SUFFIXES`."""
    transcript = result.transcript
    if kind == "srt":
        return to_srt(transcript.segments)
    if kind == "vtt":
        return to_vtt(transcript.segments)
    return to_json(result) if kind == "json" else transcript.text + "\n"


def to_json(result: Result) -> str:
    """One JSON object on one line; times in seconds."""
    transcript, stats = result.transcript, result.transcript.stats
    values = {
        "file": result.file,
        "text": transcript.text,
        "duration_s": round(transcript.duration_s, 3),
        "segments": [segment_values(segment) for segment in transcript.segments],
        "rtf": round(transcript.rtf, 5),
        "model": result.model,
        "language": result.language,
        "speech_s": round(stats.audio_s, 3),
        "prompt_tokens": stats.prompt_tokens,
        "tokens": stats.tokens,
        "passes": stats.passes,
        "read_s": round(transcript.read_s, 5),
        "encode_s": round(stats.encode_s, 5),
        "prefill_s": round(stats.prefill_s, 5),
        "decode_s": round(stats.decode_s, 5),
    }
    if result.with_stats:
        values |= stats_values(stats)
    return _json_line(values) + "\n"


def stats_values(stats: GenerationStats) -> dict[str, Any]:
    """What decoding cost; times in milliseconds, shares of the passes.

    ``mean_accepted`` are the tokens that a pass confirms, 1 without drafts; ``prefix_acceptance``
    the shares of the passes that kept at least one draft, at least two, and so on.
    """
    return {
        "passes": stats.passes,
        "tokens": stats.tokens,
        "mean_accepted": round(stats.mean_accepted, 4),
        "prefix_acceptance": [round(share, 4) for share in stats.prefix_acceptance],
        "encode_ms": round(1000 * stats.encode_s, 3),
        "decode_ms": round(1000 * stats.decode_s, 3),
    }


def stats_line(result: Result) -> str:
    """The same as one JSON object, for formats that have no place for it."""
    return _json_line({"file": result.file} | stats_values(result.transcript.stats))


def _json_line(values: dict[str, Any]) -> str:
    line = json.dumps(values, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8
        line = json.dumps(values)
    return line


def segment_values(segment: Segment) -> dict[str, Any]:
    """A segment as JSON, with its words if they are known."""
    values: dict[str, Any] = {"start": segment.start, "end": segment.end, "text": segment.text}
    if segment.confidence is not None:
        values["confidence"] = segment.confidence
    if segment.words:
        values["words"] = [
            {"word": w.text, "start": w.start, "end": w.end, "confidence": w.confidence}
            for w in segment.words
        ]
    return values


class Table:
    """Rows as they come: file, seconds of audio, real-time factor, text.

    On a terminal a long text goes on below itself and a long file name loses its beginning;
    elsewhere nothing is cut or folded.
    """

    def __init__(self, files: Sequence[str], terminal_width: int | None) -> None:
        """Lay out the columns.

        Args:
            files: names of all files, of which the widest gives the width of the first column.
            terminal_width: columns of the terminal; None: the output is none.
        """
        self._file_width = max([_width(one_line(file)) for file in files] + [len("file")])
        self._text_width: int | None = None
        if terminal_width is not None:
            self._file_width = min(self._file_width, max(terminal_width // 3, len("file")))
            others = self._file_width + 2 * _NUMBER_WIDTH + 3 * len(_GAP)
            self._text_width = max(terminal_width - others, _MIN_TEXT_WIDTH)
        self._num_files = 0
        self._audio_s = self._work_s = 0.0

    def header(self) -> str:
        """First line."""
        return self._row("file", "seconds", "rtf", "text")

    def row(self, result: Result) -> str:
        """Lines of one recording."""
        transcript = result.transcript
        self._num_files += 1
        self._audio_s += transcript.duration_s
        self._work_s += transcript.work_s
        seconds, rtf = f"{transcript.duration_s:.1f}", f"{transcript.rtf:.3f}"
        return self._row(one_line(result.file), seconds, rtf, transcript.text)

    def footer(self) -> str:
        """Last line: all seconds of audio, the real-time factor of all."""
        rtf = self._work_s / self._audio_s if self._audio_s else 0.0
        files = f"{self._num_files} file{'' if self._num_files == 1 else 's'}"
        return self._row(files, f"{self._audio_s:.1f}", f"{rtf:.3f}", "")

    def _row(self, file: str, seconds: str, rtf: str, text: str) -> str:
        lines = [text]
        if self._text_width is not None:
            file = _without_beginning(file, self._file_width)
            lines = textwrap.wrap(text, self._text_width) or [""]
        cells = [
            file + " " * (self._file_width - _width(file)),
            seconds.rjust(_NUMBER_WIDTH),
            rtf.rjust(_NUMBER_WIDTH),
        ]
        indent = " " * (self._file_width + 2 * _NUMBER_WIDTH + 3 * len(_GAP))
        rows = [_GAP.join([*cells, lines[0]]), *(indent + line for line in lines[1:])]
        return "".join(f"{row.rstrip()}\n" for row in rows)


def one_line(file: str) -> str:
    """File name with its line ends spelled out."""
    return file.replace("\r", "\\r").replace("\n", "\\n")


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _without_beginning(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[1:]
    return "…" + text
