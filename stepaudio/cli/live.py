"""``stepaudio asr --stream``: text while the sound comes in."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stepaudio.audio.files import STDIN
from stepaudio.cli.console import UsageError, echo
from stepaudio.cli.formats import segment_values, stats_values
from stepaudio.text.hotwords import Hotwords

if TYPE_CHECKING:
    from torch import Tensor

    from stepaudio.tasks.live import LiveUpdate

_FORMATS = ("text", "json")
_BLOCK_S = 0.32  # of a file, which is read at once


def run_live(args: argparse.Namespace, hotwords: Hotwords) -> int:
    """Transcribe one stream; returns the exit status.

    Raises:
        UsageError: the arguments do not fit a stream.
        StepAudioError: the sound cannot be read, or the model cannot be loaded.
    """
    if len(args.paths) != 1:
        raise UsageError(f"--stream takes one recording or -, not {len(args.paths)}")
    if args.format not in _FORMATS or args.output_dir is not None:
        raise UsageError("--stream writes text or json to standard output")
    if args.itn or args.punctuate or args.word_timestamps:
        raise UsageError("--stream has no --itn, --punctuate or --word-timestamps")
    if args.pcm_rate is not None and args.paths[0] != STDIN:
        raise UsageError("--pcm-rate belongs to raw samples on standard input (-)")
    from stepaudio.tasks.asr import Transcriber

    transcriber = Transcriber.from_pretrained(
        args.model, device=args.device, decoding=args.decoding, blocks=args.mtp
    )
    live = transcriber.live(hotwords=hotwords)
    writer = _JsonWriter(args.paths[0]) if args.format == "json" else _TextWriter()
    summary = _Summary(args.paths[0])
    state = live.start()
    for block in _blocks(args.paths[0], args.pcm_rate):
        started = time.perf_counter()
        updates, state = live.push(block, state)
        summary.note(updates, time.perf_counter() - started)
        for update in updates:
            writer.write(update)
    updates, state = live.finish(state)
    summary.note(updates, 0.0)
    for update in updates:
        writer.write(update)
    writer.end()
    values = summary.values(state.num_samples / 16_000)
    if args.format == "json":
        extra = stats_values(state.stats) if args.stats else {}
        _print_json({"type": "end", **values, **extra, "model": args.model})
    elif args.stats:
        print(json.dumps(values), file=sys.stderr, flush=True)
    return 0


def _blocks(path: str, pcm_rate: int | None) -> Iterator[Tensor]:
    from stepaudio.audio.io import iter_audio_blocks
    from stepaudio.audio.live_input import PcmFormat, live_blocks

    if path != STDIN:
        return iter_audio_blocks(path, _BLOCK_S)
    format = None if pcm_rate is None else PcmFormat(pcm_rate)
    return live_blocks(sys.stdin.buffer, format)


class _TextWriter:
    """Confirmed text on standard output, the rest on a terminal's last line."""

    def __init__(self) -> None:
        self._shows_partials = sys.stderr is not None and sys.stderr.isatty()
        self._begun = False

    def write(self, update: LiveUpdate) -> None:
        self._clear()
        if update.confirmed:
            echo((" " if self._begun else "") + update.confirmed)
            self._begun = True
        if update.segment is not None:
            echo("\n")
            self._begun = False
        if self._shows_partials and update.partial:
            # Grey, and taken away again before anything else is written.
            print(f"\x1b7\x1b[2m {update.partial}\x1b[0m\x1b8", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._shows_partials:
            print("\x1b[J", end="", file=sys.stderr, flush=True)


class _JsonWriter:
    """One JSON object a line: partial, confirmed, segment."""

    def __init__(self, file: str) -> None:
        self._file = file

    def write(self, update: LiveUpdate) -> None:
        at = {"audio_s": round(update.audio_s, 3), "compute_s": round(update.compute_s, 4)}
        if update.confirmed:
            _print_json({"type": "confirmed", "text": update.confirmed, **at})
        if update.segment is not None:
            _print_json(
                {"type": "segment", "file": self._file, **segment_values(update.segment), **at}
            )
        else:
            _print_json({"type": "partial", "text": update.partial, **at})

    def end(self) -> None:
        """Nothing is left open."""


class _Summary:
    """How late text was, and how much work it took."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._delays: list[float] = []
        self._compute_s = 0.0

    def note(self, updates: list[LiveUpdate], compute_s: float) -> None:
        self._compute_s += compute_s
        for update in updates:
            self._delays += update.delays_s
        # The latest ones stand for the stream, however long it is.
        del self._delays[:-10_000]

    def values(self, audio_s: float) -> dict[str, Any]:
        delays = sorted(self._delays)
        values: dict[str, Any] = {
            "file": self._file,
            "duration_s": round(audio_s, 3),
            "rtf": round(self._compute_s / audio_s, 5) if audio_s else 0.0,
        }
        if delays:
            values["confirmed_after_s"] = {
                "median": delays[len(delays) // 2],
                "p90": delays[len(delays) * 9 // 10],
                "max": delays[-1],
            }
        return values


def _print_json(values: dict[str, Any]) -> None:
    echo(json.dumps(values, ensure_ascii=False) + "\n")
