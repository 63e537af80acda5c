"""``stepaudio tts``: a text to one file, or the lines of a file to one file each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stepaudio.audio.files import STDIN
from stepaudio.catalog import DEFAULT_VOICE, find_voice
from stepaudio.cli.console import UsageError, accept_any_text, echo, report
from stepaudio.cli.options import add_model_options, load
from stepaudio.cli.outputs import output_folder
from stepaudio.cli.progress import Progress
from stepaudio.cli.speech import add_voice_option, check_out
from stepaudio.errors import OutputError, StepAudioError

if TYPE_CHECKING:
    from stepaudio.tasks.speech_options import SpeechOptions
    from stepaudio.tasks.speech_result import SpokenText
    from stepaudio.tasks.tts import Synthesizer, Utterance

TTS_EPILOG = """\
examples:
  stepaudio tts "It is ten past nine." -o out.wav
  stepaudio tts -o out.mp3 < letter.txt                   text from standard input
  stepaudio tts "Hello." -o out.wav --voice me.wav --instruction slowly
  stepaudio tts -i lines.txt --output-dir speech/         0001.wav, ...; skips what is there
"""
_SUFFIXES = ("wav", "flac", "mp3", "ogg", "opus")
_SAMPLING = {
    "temperature": (
        float,
        "of the audio codes; 0 takes the most probable (default: that of the model)",
    ),
    "top_p": (float, "sample from the smallest set of codes with this probability"),
    "top_k": (int, "sample from so many most probable codes; 0: from all"),
    "takes": (
        int,
        "how often each sentence is spoken; the take that the model's own recogniser understands "
        "best is kept (default: that of the model)",
    ),
    "retries": (int, "how often a sentence that turned out badly is generated again"),
    "batch_size": (int, "sentences that are generated together"),
}
_FEWEST_DIGITS = 4


@dataclass(frozen=True)
class _Line:
    """A line of the input, and the file that it becomes."""

    number: int
    text: str
    path: Path


def add_tts(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "text", nargs="*", metavar="TEXT", help="what to say; none or -: standard input"
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="file to write; its suffix says the format"
    )
    parser.add_argument(
        "-i", "--input", metavar="FILE", help="speak each line of a file; - for standard input"
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="where the lines go; files that are there are kept"
    )
    parser.add_argument(
        "--format", choices=_SUFFIXES, default="wav", help="of the lines (default: %(default)s)"
    )
    add_voice_option(parser, default=DEFAULT_VOICE)
    parser.add_argument(
        "--instruction", metavar="TEXT", help='how to say it, such as "slowly"; nano knows paces'
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, another rendering"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each file")
    parser.add_argument("--stats", action="store_true", help="say on standard error what it cost")
    add_model_options(parser)
    group = parser.add_argument_group("sampling")
    for name, (kind, text) in _SAMPLING.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)


def run_tts(args: argparse.Namespace) -> int:
    """Speak; returns the exit status.

    Raises:
        UsageError: the arguments do not fit each other; nothing was loaded.
        StepAudioError: something cannot be read, loaded or written, or there is nothing to say.
    """
    accept_any_text()
    _check(args)
    find_voice(args.voice or DEFAULT_VOICE)
    if args.input is not None:
        return _speak_lines(args)
    check_out(args.out)
    text = _text(args)
    synthesizer = _synthesizer(args)
    spoken = synthesizer.speak(text, voice=args.voice, instruction=args.instruction, seed=args.seed)
    if spoken.style.warning is not None:
        report(spoken.style.warning)
    _write(args, Path(args.out), spoken)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.input is None:
        if args.out is None or args.output_dir is not None:
            raise UsageError("give the file to write: -o FILE; --output-dir DIR is for -i FILE")
    elif args.output_dir is None or args.out is not None:
        raise UsageError("-i FILE speaks each line to a file of its own: give --output-dir DIR")
    elif args.text:
        raise UsageError("give either a text or -i FILE")
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, got {args.seed}")
    reads_stdin = STDIN in (args.input, *args.text) or (args.input is None and not args.text)
    if reads_stdin and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("nothing to say: give a text, or pipe it in")


def _text(args: argparse.Namespace) -> str:
    if args.text and args.text != [STDIN]:
        return " ".join(args.text)
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _options(args: argparse.Namespace) -> SpeechOptions:
    from stepaudio.tasks.speech_options import SpeechOptions

    given = {name: getattr(args, name) for name in _SAMPLING if getattr(args, name) is not None}
    try:
        return SpeechOptions(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _synthesizer(args: argparse.Namespace) -> Synthesizer:
    options = _options(args)
    from stepaudio.models.token2wav.token2wav import Token2Wav
    from stepaudio.tasks.speech_prompt import SpeechPrompter
    from stepaudio.tasks.tts import Synthesizer as Loaded

    model = load(args)
    SpeechPrompter(model, options)  # says that it cannot read aloud before anything is loaded
    engine = Token2Wav.from_pretrained(args.model, device=args.device, revision=args.revision)
    return Loaded(model, engine, options)


# ---- one file for each line ----------------------------------------------------------------------


def _speak_lines(args: argparse.Namespace) -> int:
    texts = _read_lines(args.input)
    lines = _lines(texts, output_folder(args.output_dir), args.format)
    wanted = [line for line in lines if not line.path.exists()]
    if len(wanted) < len(lines):
        report(f"{len(lines) - len(wanted)} of {len(lines)} files are there already")
    if not wanted:
        return 0
    sizes = [len(line.text) + 1 for line in wanted]
    with closing(Progress([line.text for line in wanted], sizes=sizes, unit="lines")) as progress:
        return _speak_each(args, wanted, progress)


def _speak_each(args: argparse.Namespace, lines: Sequence[_Line], progress: Progress) -> int:
    """Speak lines; one that cannot be spoken or written is reported, and the others go on."""
    synthesizer = _synthesizer(args)
    utterances = _utterances(args, lines, synthesizer)
    progress.start()
    num_failed, warned = 0, False
    for index, (line, outcome) in enumerate(
        zip(lines, synthesizer.speak_many(utterances), strict=True)
    ):
        progress.finish(index)
        with progress.hidden():
            try:
                if isinstance(outcome, StepAudioError):
                    raise outcome
                if outcome.style.warning is not None and not warned:
                    warned = True
                    report(outcome.style.warning)
                _write(args, line.path, outcome, line.number)
            except StepAudioError as error:
                num_failed += 1
                report(f"{_name(args.input)}, line {line.number}: {error}")
    return 1 if num_failed else 0


def _utterances(
    args: argparse.Namespace, lines: Sequence[_Line], synthesizer: Synthesizer
) -> Iterator[Utterance]:
    from stepaudio.tasks.tts import Utterance as Request

    voice = synthesizer.prepare_voice(args.voice)
    return (Request(line.text, voice, args.instruction, args.seed) for line in lines)


def _read_lines(source: str) -> list[str]:
    """Lines of a file; bytes that are no UTF-8 are left out like other signs without a sound."""
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{source}: cannot be read: {reason}") from error
    text = data.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def _lines(texts: Sequence[str], folder: Path, suffix: str) -> list[_Line]:
    digits = max(_FEWEST_DIGITS, len(str(len(texts))))
    return [
        _Line(number, text, folder / f"{number:0{digits}d}.{suffix}")
        for number, text in enumerate(texts, start=1)
    ]


# ---- results -------------------------------------------------------------------------------------


def _write(
    args: argparse.Namespace, path: Path, spoken: SpokenText, line: int | None = None
) -> None:
    """Write the sound, and say what it is, what is wrong with it and what it cost."""
    from stepaudio.audio.io import save_audio
    from stepaudio.cli.spoken import render_spoken

    if not len(spoken.samples):
        raise OutputError(f"{path}: not written: the model has given no audio codes")
    save_audio(path, spoken.samples, spoken.sample_rate)
    echo(render_spoken(spoken, str(path), as_json=args.json, model=args.model, line=line))
    for warning in spoken.warnings:
        report(f"{path}: {warning}")
    if args.stats:
        stats = spoken.stats
        report(
            f"{path}: {stats.speech_s:.2f} s of speech in {stats.total_s:.2f} s (real-time factor "
            f"{stats.rtf:.2f}): codes {stats.generation.total_s:.2f} s, sound "
            f"{stats.vocode_s:.2f} s; {stats.retries} sentences generated again"
        )


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source
