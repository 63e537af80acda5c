"""Arguments of ``stepaudio-bench``.

Exit status: 0 measured, 1 nothing could be measured, 2 wrong arguments, 130 ended by Ctrl-C (what
was measured until then is printed).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from stepaudio.atomic import write_text_atomic
from stepaudio.errors import ConfigError, StepAudioError

_EPILOG = """\
examples:
  stepaudio-bench realtime                              one speaker, five turns
  stepaudio-bench realtime --sessions 4 --barge-in 0.3  four; every third answer is interrupted
  stepaudio-bench realtime wss://host:8443 --api-key-file keys --duration 60 --json out.json
"""


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    parser = argparse.ArgumentParser(
        prog="stepaudio-bench", description="Measure servers from outside."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    realtime = commands.add_parser(
        "realtime",
        help="speak to a realtime server and time its answers",
        description="Let simulated speakers talk to a server of the OpenAI Realtime protocol, in "
        "real time, and measure what they hear.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = realtime.add_argument
    add("url", nargs="?", default="http://127.0.0.1:8000", help="server (default: %(default)s)")
    add("--model", default="", help="default: the first that the server lists")
    add("--sessions", type=_count, default=1, help="speakers at once (default: %(default)s)")
    add("--turns", type=_count, help="of each speaker (default: 5, without --duration)")
    add("--duration", type=_seconds, metavar="S", help="stop after so many seconds")
    add("--audio", type=Path, nargs="+", default=[], metavar="FILE",
        help="questions, cut at pauses; default: a recording of this package")  # fmt: skip
    add("--api-key-file", type=Path, help="file whose first line is the key")
    add("--insecure", action="store_true", help="accept any TLS certificate")
    add("--barge-in", type=_share, default=0.0, metavar="SHARE", help="of the answers")
    add("--kill", type=_share, default=0.0, metavar="SHARE",
        help="of the turns in which the client dies")  # fmt: skip
    add("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    add("--pid", type=int, help="server process of this machine; default: its /metrics")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--plot", type=Path, metavar="FILE.png", help="draw it")
    return parser


def read_key(path: Path) -> str:
    """First key of a file.

    Raises:
        ConfigError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
    if not keys:
        raise ConfigError(f"{path}: has no key; write one a line, or leave --api-key-file out")
    return keys[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        return _realtime(args)
    except ModuleNotFoundError as error:
        if error.name != "websockets":
            raise
        print("stepaudio-bench: needs websockets: pip install 'stepaudio[bench]'", file=sys.stderr)
        return 1
    except StepAudioError as error:
        print(f"stepaudio-bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _realtime(args: argparse.Namespace) -> int:
    import asyncio
    from dataclasses import replace

    from stepaudio_streaming.bench.plot import require_matplotlib, write_plot
    from stepaudio_streaming.bench.recordings import load_recordings
    from stepaudio_streaming.bench.run import INTERRUPTED, BenchOptions, measure
    from stepaudio_streaming.bench.speaker import SpeakerOptions
    from stepaudio_streaming.bench.target import parse_target
    from stepaudio_streaming.bench.usage import build_meter

    if args.plot is not None:
        require_matplotlib()
    for path in (args.json, args.plot):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}")
    key = "" if args.api_key_file is None else read_key(args.api_key_file)
    target = parse_target(args.url, key=key, model=args.model, verifies=not args.insecure)
    recordings = load_recordings(args.audio)
    if not target.model:
        target = replace(target, model=target.first_model())
    turns = args.turns if args.turns or args.duration else 5
    options = BenchOptions(
        sessions=args.sessions,
        duration_s=args.duration,
        seed=args.seed,
        speaker=SpeakerOptions(turns=turns, barge_in=args.barge_in, kill=args.kill),
    )
    report = asyncio.run(measure(target, recordings, options, build_meter(target, args.pid)))
    print(report.table())
    if args.json is not None:
        text = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
        write_text_atomic(args.json, text + "\n")
    if args.plot is not None:
        write_plot(report, args.plot)
    if report.tally.counts[INTERRUPTED]:
        return 130
    return 0 if report.answered else 1


if __name__ == "__main__":
    sys.exit(main())
