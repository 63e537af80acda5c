"""`stepaudio-eval asr MANIFEST... [--model M] [--against pocketsphinx] [--output report.json]`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from stepaudio import __version__
from stepaudio.errors import StepAudioError


def build_parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    parser = argparse.ArgumentParser(prog="stepaudio-eval", description="Evaluate models.")
    commands = parser.add_subparsers(dest="command", required=True)
    asr = commands.add_parser("asr", help="word error rate and speed on manifests")
    asr.add_argument("manifests", nargs="+", type=Path)
    asr.add_argument("--model", default="nano", help="nano, a folder or a hub id")
    asr.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    asr.add_argument("--batch-size", type=int, default=8)
    asr.add_argument(
        "--decoding",
        nargs="+",
        choices=["auto", "greedy", "words"],
        default=["auto"],
        help="how the model's tokens are chosen; several are scored one after the other",
    )
    asr.add_argument("--limit", type=int, help="only the first so many rows of each manifest")
    asr.add_argument("--against", choices=["pocketsphinx"], help="a peer, in the same run")
    asr.add_argument("--output", type=Path, help="write a JSON report with every hypothesis")
    asr.add_argument("--show-errors", type=int, default=0, metavar="N", help="print N mistakes")
    return parser


def _run_asr(args: argparse.Namespace) -> None:
    import dataclasses

    from stepaudio.atomic import write_text_atomic
    from stepaudio.text.manifest import read_manifest
    from stepaudio_eval.asr import (
        PocketsphinxRecognizer,
        Recognizer,
        StepAudioRecognizer,
        evaluate,
    )

    rows = {manifest: read_manifest(manifest) for manifest in args.manifests}
    systems: list[Recognizer] = [
        StepAudioRecognizer(args.model, args.device, args.batch_size, decoding)
        for decoding in args.decoding
    ]
    if args.against:
        systems.append(PocketsphinxRecognizer())
    scores = []
    print(f"{'set':28} {'system':14} {'rows':>5} {'words':>6} {'WER %':>7} {'RTF':>8}")
    for manifest in args.manifests:
        for score in evaluate(systems, manifest, args.limit):
            scores.append(score)
            print(
                f"{score.manifest:28} {score.system:14} {score.num_rows:5} {score.words:6} "
                f"{100 * score.wer:7.2f} {score.rtf:8.4f}",
                flush=True,
            )
            pairs = zip(rows[manifest], score.texts, strict=False)
            wrong = [(row.text, text) for row, text in pairs if row.text != text]
            for reference, text in wrong[: args.show_errors]:
                print(f"    ref {reference}\n    hyp {text}")
    if args.output:
        report = {
            "version": __version__,
            "machine": platform.machine(),
            "scores": [dataclasses.asdict(s) | {"wer": s.wer, "rtf": s.rtf} for s in scores],
        }
        write_text_atomic(args.output, json.dumps(report, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        _run_asr(args)
    except StepAudioError as error:
        print(f"stepaudio-eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stepaudio-eval: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
