"""`stepaudio-eval asr MANIFEST...` and `stepaudio-eval speech MANIFEST`."""

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
    asr.set_defaults(run=_run_asr)
    _add_speech(commands.add_parser("speech", help="intelligibility and speed of speech output"))
    return parser


def _add_speech(speech: argparse.ArgumentParser) -> None:
    speech.add_argument("manifest", type=Path, help="held-out sentences and their recordings")
    speech.add_argument("--model", default="nano", help="nano, a folder or a hub id")
    speech.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    speech.add_argument("--voice", help="of resynth and tts (default: the default voice)")
    speech.add_argument("--limit", type=int, help="only the first so many rows")
    speech.add_argument("--seed", type=int, default=0)
    speech.add_argument(
        "--takes",
        type=_count,
        help="of each sentence read aloud (default: as the model wants it)",
    )
    speech.add_argument(
        "--kinds",
        nargs="+",
        choices=["natural", "resynth", "tts"],
        default=["natural", "resynth", "tts"],
        help="recordings, recordings through audio tokens and back, sentences read aloud",
    )
    speech.add_argument(
        "--recognizers",
        nargs="+",
        choices=["nano", "pocketsphinx"],
        default=["pocketsphinx", "nano"],
        help="who listens",
    )
    speech.add_argument("--figures", type=Path, help="folder for a picture of each of 3 sentences")
    speech.add_argument("--audio", type=Path, help="folder that all speech is written to")
    speech.add_argument("--output", type=Path, help="write a JSON report")
    speech.set_defaults(run=_run_speech)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {count}")
    return count


def _run_speech(args: argparse.Namespace) -> None:
    import dataclasses

    from stepaudio.atomic import write_text_atomic
    from stepaudio.audio.io import save_audio
    from stepaudio.tasks.speech_options import SpeechOptions
    from stepaudio.tasks.tts import Synthesizer
    from stepaudio.text.manifest import read_manifest
    from stepaudio_eval.asr import PocketsphinxRecognizer, Recognizer, StepAudioRecognizer
    from stepaudio_eval.speech import save_figure, score_speech, speech_sets

    rows = read_manifest(args.manifest)[: args.limit]
    options = SpeechOptions(takes=args.takes)
    synthesizer = Synthesizer.from_pretrained(args.model, device=args.device, options=options)
    recognizers: list[Recognizer] = [
        PocketsphinxRecognizer() if name == "pocketsphinx" else StepAudioRecognizer(name)
        for name in args.recognizers
    ]
    names = "".join(f"{'WER ' + recognizer.name:>18}" for recognizer in recognizers)
    print(
        f"{'kind':8} {'rows':>4} {'s':>6} {'RTF':>6} {'faulty':>6}{names}  mel dist  STOI  MOS  use"
    )
    sets, scores = [], []
    for made in speech_sets(synthesizer, rows, args.kinds, voice=args.voice, seed=args.seed):
        sets.append(made)
        natural = sets[0] if sets[0].kind == "natural" else None
        score = score_speech(made, rows, recognizers, synthesizer, natural)
        scores.append(score)
        rates = "".join(f"{100 * rate:18.1f}" for rate in score.wer.values())
        optional = (score.mel_distance, score.stoi, score.mos, score.codebook_use)
        shown = "  ".join("    -" if value is None else f"{value:5.2f}" for value in optional)
        print(
            f"{score.kind:8} {score.num_rows:4} {score.audio_s:6.1f} {score.rtf:6.3f} "
            f"{score.problems:6}{rates}  {shown}",
            flush=True,
        )
        if args.audio:
            args.audio.mkdir(parents=True, exist_ok=True)
            for index, wav in enumerate(made.wavs):
                save_audio(args.audio / f"{index:03d}_{made.kind}.wav", wav, made.sample_rate)
    if args.figures:
        for index in range(min(3, len(rows))):
            save_figure(args.figures / f"speech_{index}.png", sets, index, rows[index].text)
    if args.output:
        report = {
            "version": __version__,
            "machine": platform.machine(),
            "scores": [dataclasses.asdict(score) for score in scores],
        }
        write_text_atomic(args.output, json.dumps(report, indent=1) + "\n")


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
        args.run(args)
    except StepAudioError as error:
        print(f"stepaudio-eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stepaudio-eval: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
