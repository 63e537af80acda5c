"""Arguments and exit status of ``stepaudio``; everything slow is imported by the commands.

Exit status: 0 all went well, 1 something could not be read, loaded or written, 2 wrong arguments,
130 interrupted by Ctrl-C, 141 the reader of standard output went away.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NoReturn

import stepaudio
from stepaudio.catalog import DEFAULT_MODEL
from stepaudio.cli.chat import EPILOG as CHAT_EPILOG
from stepaudio.cli.chat import add_chat, run_chat
from stepaudio.cli.console import UsageError, abandon_stdout, report
from stepaudio.cli.listen import add_caption, add_translate, run_caption, run_translate
from stepaudio.cli.speech import RESYNTH_EPILOG, add_resynth, run_resynth
from stepaudio.cli.tts import TTS_EPILOG, add_tts, run_tts
from stepaudio.errors import StepAudioError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_DEBUG_VARIABLE = "STEPAUDIO_DEBUG"
_FORMATS = ("text", "json", "srt", "vtt", "table")

_ASR_EPILOG = """\
examples:
  stepaudio asr talk.mp3                                  text on standard output
  stepaudio asr recordings/ --format json > all.jsonl     one JSON object a line
  stepaudio asr '*.m4a' --format srt --output-dir subs    one subtitle file for each
  curl -s "$URL" | stepaudio asr -                        standard input
"""


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"stepaudio: {message} (see {self.prog} --help)\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    parser = _Parser(
        prog="stepaudio",
        description="Speech recognition, speech and conversation with audio-language models.",
    )
    parser.add_argument("--version", action="version", version=f"stepaudio {stepaudio.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("models", help="list the models that can be loaded, and where from")
    asr = commands.add_parser(
        "asr",
        help="transcribe recordings",
        description="Transcribe recordings of any length and any common format.",
        epilog=_ASR_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asr.add_argument(
        "paths", nargs="+", metavar="PATH", help="file, folder, glob pattern, or - for stdin"
    )
    asr.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="nano|DIR|HF-ID",
        help="model: a name of `stepaudio models`, a folder, or an id of the Hugging Face Hub "
        "(default: %(default)s)",
    )
    asr.add_argument("--format", choices=_FORMATS, default="text", help="(default: %(default)s)")
    asr.add_argument(
        "--output-dir",
        metavar="DIR",
        help="write one file for each recording into this folder; an interrupted job goes on where "
        "it stopped",
    )
    asr.add_argument(
        "--overwrite",
        action="store_true",
        help="with --output-dir: also make transcripts that are there already",
    )
    asr.add_argument(
        "--language", metavar="CODE", help="language of the speech, such as en (default: any)"
    )
    asr.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU where there is one (default: %(default)s)",
    )
    asr.add_argument(
        "--dtype",
        choices=("fp32", "int8"),
        default="fp32",
        help="int8: a byte for each weight of the decoder on a CPU, unless it is too small to gain "
        "by it (default: %(default)s)",
    )
    asr.add_argument(
        "--batch-size",
        type=_positive,
        default=8,
        metavar="N",
        help="stretches of speech transcribed together (default: %(default)s)",
    )
    asr.add_argument(
        "--decoding",
        choices=("auto", "greedy", "words", "mtp"),
        default="auto",
        help="greedy: the decoder writes; mtp: the same text in fewer passes, with prediction "
        "blocks; words: the decoder judges what a search over words has found; auto: words where "
        "the model has a word model, else mtp where it has blocks, else greedy "
        "(default: %(default)s)",
    )
    asr.add_argument(
        "--mtp",
        metavar="PATH",
        help="file or folder of the prediction blocks (default: mtp.safetensors of the model)",
    )
    asr.add_argument(
        "--stats",
        action="store_true",
        help="also say what decoding cost: in JSON as passes, tokens, mean_accepted, "
        "prefix_acceptance, encode_ms and decode_ms; for other formats on standard error",
    )
    asr.add_argument(
        "--word-timestamps",
        action="store_true",
        help="also find when each word was said: in JSON as segments[].words, with a confidence; "
        "subtitles are timed by them",
    )
    asr.add_argument(
        "--hotwords",
        metavar='FILE|"A, B"',
        help="words and phrases to expect, such as names: a text file with one a line, or a list",
    )
    asr.add_argument(
        "--hotword-strength",
        type=float,
        default=1.0,
        metavar="X",
        help="0 to 5; more finds more of them, also unsaid ones (default: %(default)s)",
    )
    asr.add_argument(
        "--itn",
        action="store_true",
        help="write numbers, money, times and dates of English as figures",
    )
    asr.add_argument(
        "--punctuate",
        action="store_true",
        help="begin sentences with a capital and end them with a full stop or question mark; where "
        "they end is guessed from pauses (with --word-timestamps also inside of segments)",
    )
    asr.add_argument(
        "--stream",
        action="store_true",
        help="print text while the sound of one file or of - comes in: confirmed text on standard "
        "output, partial text on a terminal or, with --format json, as objects of their own",
    )
    asr.add_argument(
        "--pcm-rate",
        type=_positive,
        metavar="HZ",
        help="with --stream: standard input is raw 16-bit mono of this rate (default: a WAV file)",
    )
    asr.add_argument(
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="threads that decode the next files meanwhile (default: %(default)s)",
    )
    _add_conversation(commands)
    _add_verify(commands)
    return parser


def _add_conversation(commands: argparse._SubParsersAction[_Parser]) -> None:
    add_chat(
        commands.add_parser(
            "chat",
            help="answer a spoken or written question",
            description="Converse with a checkpoint that can; several turns from standard input.",
            epilog=CHAT_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_translate(
        commands.add_parser(
            "translate",
            help="translate speech into text or speech",
            description="Translate recordings that fit the model's context.",
        )
    )
    add_caption(
        commands.add_parser(
            "caption",
            help="describe what is to be heard",
            description="Describe recordings that fit the model's context.",
        )
    )
    add_tts(
        commands.add_parser(
            "tts",
            help="read a text aloud",
            description="Speak a text of any length, or every line of a file.",
            epilog=TTS_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_resynth(
        commands.add_parser(
            "resynth",
            help="turn a recording into audio tokens and back into sound",
            description="Turn a recording into audio tokens and speak them.",
            epilog=RESYNTH_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def _add_verify(commands: argparse._SubParsersAction[_Parser]) -> None:
    verify = commands.add_parser(
        "verify",
        help="compare this installation with numbers of the reference code",
        description="Run every component against reference numbers, in float32 on the CPU. Exit "
        "status 1 if a number differs, a component cannot run, or one of the folder's tensors "
        "was checked by none.",
    )
    verify.add_argument(
        "--vectors",
        metavar="DIR",
        help="folder with reference numbers (default: those of the source checkout)",
    )
    verify.add_argument("--json", action="store_true", help="print one JSON object")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes the paths or words behind an option for surplus arguments.
    behind = {"asr": "paths", "tts": "text"}.get(args.command)
    if behind and not any(word.startswith("-") and word != "-" for word in rest):
        getattr(args, behind).extend(rest)
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return args


def _models(args: argparse.Namespace) -> int:
    from stepaudio.cli.models import run_models

    return run_models()


def _asr(args: argparse.Namespace) -> int:
    from stepaudio.cli.asr import run_asr

    return run_asr(args)


def _verify(args: argparse.Namespace) -> int:
    from stepaudio.cli.verify import run_verify

    return run_verify(args)


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "models": _models,
    "asr": _asr,
    "chat": run_chat,
    "translate": run_translate,
    "caption": run_caption,
    "tts": run_tts,
    "resynth": run_resynth,
    "verify": _verify,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parse(argv)
    sys.excepthook = _report_bug
    # The interpreter's last search for cycles would visit all that torch has made.
    atexit.register(gc.freeze)
    try:
        return _COMMANDS[args.command](args)
    except UsageError as error:
        report(str(error))
        return EXIT_USAGE
    except StepAudioError as error:
        report(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        report("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        abandon_stdout()
        return EXIT_BROKEN_PIPE


def _report_bug(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if os.environ.get(_DEBUG_VARIABLE):
        sys.__excepthook__(kind, error, trace)
    else:
        report(f"internal error: {kind.__name__}: {error} ({_DEBUG_VARIABLE}=1 shows where)")
