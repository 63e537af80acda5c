"""``stepaudio asr``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from stepaudio import __version__
from stepaudio.audio.decoding import open_decoder
from stepaudio.audio.files import STDIN, expand_paths
from stepaudio.catalog import find_entry
from stepaudio.cli.console import UsageError, accept_any_text, echo, report
from stepaudio.cli.formats import Result, stats_line
from stepaudio.cli.journal import weights_fingerprint
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
    if (args.itn or args.punctuate) and language not in (None, "en"):
        raise UsageError(f"--itn and --punctuate know English only, not {language}")
    if args.stream:
        from stepaudio.cli.live import run_live

        return run_live(args, _read_hotwords(args.hotwords, args.hotword_strength))
    files = expand_paths(args.paths)
    if STDIN in files and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("-: standard input is a terminal; pipe audio into it")
    hotwords = _read_hotwords(args.hotwords, args.hotword_strength)
    output = _make_output(args, files, hotwords)
    wanted = [n for n in range(len(files)) if args.overwrite or not output.is_done(n)]
    if len(wanted) < len(files):
        report(f"{len(files) - len(wanted)} of {len(files)} transcripts are there already")
    if not wanted:
        return 0
    if not any(_can_be_opened(files[n]) for n in wanted):
        return _report_unreadable([files[n] for n in wanted])
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of other packages are of no use to users
    job = _Job(files, wanted, language, hotwords)
    with closing(Progress([files[n] for n in wanted])) as progress:
        return _transcribe(args, job, output, progress)


@dataclass(frozen=True)
class _Job:
    """What is to be done.

    Attributes:
        files: all recordings.
        wanted: numbers of those that have no transcript yet.
        language: code of what is spoken; None: the model finds it out.
        hotwords: words to expect.
    """

    files: Sequence[str]
    wanted: Sequence[int]
    language: str | None
    hotwords: Hotwords


def _transcribe(args: argparse.Namespace, job: _Job, output: Output, progress: Progress) -> int:
    from stepaudio.tasks.asr import Recording, Transcriber
    from stepaudio.tasks.written_form import WrittenForm

    transcriber = Transcriber.from_pretrained(
        args.model,
        device=args.device,
        batch_size=args.batch_size,
        decoding=args.decoding,
        blocks=args.mtp,
        word_timestamps=args.word_timestamps,
        precision="int8" if args.dtype == "int8" else "float",
        hotwords=job.hotwords,
    )
    outcomes = transcriber.transcribe_many(
        (
            Recording(sys.stdin.buffer, STDIN) if file == STDIN else Recording(file)
            for file in (job.files[n] for n in job.wanted)
        ),
        num_readers=args.jobs,
        on_progress=progress.advance if progress.is_shown else None,
    )

    def show(text: str) -> None:
        with progress.hidden():
            echo(text)

    form = WrittenForm(args.itn, args.punctuate)
    num_failed = 0
    progress.start()
    show(output.begin())
    with closing(outcomes):
        for place, outcome in enumerate(outcomes):
            progress.finish(place)
            index = job.wanted[place]
            line = None
            try:
                if isinstance(outcome, StepAudioError):
                    raise outcome
                outcome = form.apply(outcome)
                result = Result(job.files[index], outcome, args.model, job.language, args.stats)
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


def _options(args: argparse.Namespace, hotwords: Hotwords) -> dict[str, object]:
    """All that changes a transcript, for the journal of a folder."""
    kept = (
        "model",
        "language",
        "decoding",
        "dtype",
        "mtp",
        "stats",
        "word_timestamps",
        "itn",
        "punctuate",
    )
    options: dict[str, object] = {name: getattr(args, name) for name in kept}
    options["version"] = __version__
    options["hotwords"] = [*hotwords.phrases, hotwords.strength] if hotwords else []
    for source in (args.model, args.mtp):
        if source is not None and (found := weights_fingerprint(source)) is not None:
            options[f"weights of {source}"] = found
    return options


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


def _make_output(args: argparse.Namespace, files: Sequence[str], hotwords: Hotwords) -> Output:
    if args.output_dir is not None:
        if args.format == "table":
            raise UsageError("--format table is for the screen; --output-dir needs another one")
        return FolderOutput(args.output_dir, args.format, files, _options(args, hotwords))
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
