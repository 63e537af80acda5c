"""``stepaudio asr``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import closing

from stepaudio.audio.decoding import open_decoder
from stepaudio.audio.files import STDIN, expand_paths
from stepaudio.catalog import find_entry
from stepaudio.cli.console import UsageError, accept_any_text, echo, report
from stepaudio.cli.formats import Result, stats_line
from stepaudio.cli.outputs import FolderOutput, Output, StreamOutput, TableOutput
from stepaudio.cli.progress import Progress
from stepaudio.errors import ConfigError, StepAudioError
from stepaudio.text.hotwords import Hotwords


def run_asr(args: argparse.Namespace) -> int:
    """Transcribe, and print or write the results; returns the exit status.

    Raises:
        UsageError: the arguments cannot be followed; nothing was loaded.
        StepAudioError: the model cannot be loaded, or no output can be written.
    """
    accept_any_text()
    language = _checked_language(args.model, args.language)
    files = expand_paths(args.paths)
    if STDIN in files and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("-: standard input is a terminal; pipe audio into it")
    hotwords = _read_hotwords(args.hotwords, args.hotword_strength)
    output = _make_output(args, files)
    if not any(map(_can_be_opened, files)):
        return _report_unreadable(files)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of other packages are of no use to users
    with closing(Progress(files)) as progress:
        return _transcribe(args, files, language, hotwords, output, progress)


def _transcribe(
    args: argparse.Namespace,
    files: Sequence[str],
    language: str | None,
    hotwords: Hotwords,
    output: Output,
    progress: Progress,
) -> int:
    from stepaudio.tasks.asr import Recording, Transcriber

    transcriber = Transcriber.from_pretrained(
        args.model,
        device=args.device,
        batch_size=args.batch_size,
        decoding=args.decoding,
        blocks=args.mtp,
        word_timestamps=args.word_timestamps,
        precision="int8" if args.dtype == "int8" else "float",
        hotwords=hotwords,
    )
    outcomes = transcriber.transcribe_many(
        (
            Recording(sys.stdin.buffer, STDIN) if file == STDIN else Recording(file)
            for file in files
        ),
        num_readers=args.jobs,
        on_progress=progress.advance if progress.is_shown else None,
    )

    def show(text: str) -> None:
        with progress.hidden():
            echo(text)

    num_failed = 0
    progress.start()
    show(output.begin())
    with closing(outcomes):
        for index, outcome in enumerate(outcomes):
            progress.finish(index)
            line = None
            try:
                if isinstance(outcome, StepAudioError):
                    raise outcome
                result = Result(files[index], outcome, args.model, language, args.stats)
                line = output.add(index, result)
                if args.stats and args.format != "json":
                    with progress.hidden():
                        print(stats_line(result), file=sys.stderr, flush=True)
            except StepAudioError as error:
                num_failed += 1
                with progress.hidden():
                    report(str(error))
            if line is not None:
                show(line)
    show(output.end())
    return 1 if num_failed else 0


def _checked_language(model: str, language: str | None) -> str | None:
    """Code of the spoken language without its region, None if the model shall find it out."""
    entry = find_entry(model)
    known = entry.languages if entry is not None else ()
    if language is None:
        return known[0] if len(known) == 1 else None
    code = re.split("[-_]", language.lower())[0]
    if known and code not in known:
        raise UsageError(f"--language {language}: {model} transcribes {', '.join(known)} only")
    if not re.fullmatch("[a-z]{2,3}", code):
        raise UsageError(f"--language {language}: not a language code such as en or zh")
    return code


def _read_hotwords(given: str | None, strength: float) -> Hotwords:
    """Hotwords of a file where there is one of that name, else those that the text lists."""
    try:
        if given is not None and (os.path.sep in given or os.path.isfile(given)):
            return Hotwords.read(given, strength)
        return Hotwords.parse(given, strength)
    except ConfigError as error:
        raise UsageError(f"--{error}" if str(error).startswith("hotw") else str(error)) from error


def _make_output(args: argparse.Namespace, files: Sequence[str]) -> Output:
    if args.output_dir is not None:
        if args.format == "table":
            raise UsageError("--format table is for the screen; --output-dir needs another one")
        return FolderOutput(args.output_dir, args.format, files)
    if args.format == "table":
        return TableOutput(files)
    if args.format in ("srt", "vtt") and len(files) > 1:
        raise UsageError(
            f"--format {args.format} makes one file for each of the {len(files)} recordings: "
            "add --output-dir DIR"
        )
    return StreamOutput(args.format, with_names=list(files) != args.paths or len(files) > 1)


def _can_be_opened(file: str) -> bool:
    return file == STDIN or (os.path.exists(file) and not os.path.isdir(file))


def _report_unreadable(files: Sequence[str]) -> int:
    """Say why none of the inputs can be opened, without loading a model for that."""
    for file in files:
        try:
            with open_decoder(file):
                pass
        except StepAudioError as error:
            report(str(error))
    return 1
