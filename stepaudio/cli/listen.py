"""``stepaudio translate`` and ``stepaudio caption``: one answer for every recording."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from stepaudio.audio.files import STDIN, expand_paths
from stepaudio.cli.console import UsageError, accept_any_text, echo, report
from stepaudio.cli.options import add_model_options, add_sampling_options, load, sampling
from stepaudio.errors import StepAudioError

if TYPE_CHECKING:
    from stepaudio.audio.decoding import AudioSource
    from stepaudio.tasks.modes import TaskMode
    from stepaudio.tasks.reply import Reply


def add_translate(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``stepaudio translate``."""
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="file, folder, glob pattern, or - for stdin"
    )
    parser.add_argument("--text", metavar="TEXT", help="speak a translation of this text (Base)")
    parser.add_argument("--speech", action="store_true", help="answer in speech")
    parser.add_argument(
        "--to",
        choices=("zh", "en", "ja"),
        help="target language (default: the one that the checkpoint's prompt names)",
    )
    _add_common(parser)


def add_caption(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``stepaudio caption``."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="file, folder, glob pattern, or - for stdin"
    )
    parser.add_argument(
        "--detailed",
        action="store_true",
        help="transcribe, and describe speaker, background and events",
    )
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object for each recording")
    add_model_options(parser)
    add_sampling_options(parser)


def run_translate(args: argparse.Namespace) -> int:
    """Translate recordings or a text; returns the exit status.

    Raises:
        UsageError: the arguments do not fit each other.
        StepAudioError: the model cannot be loaded or lacks the mode.
    """
    if (args.text is None) is (not args.paths):
        raise UsageError("translate: give either recordings or --text TEXT")
    accept_any_text()
    from stepaudio.tasks.modes import DEFAULTS

    model = load(args)
    if args.text is not None:
        params = sampling(args, DEFAULTS["read_translation"].sampling)
        _show(args, None, model.read_translation(args.text, target=args.to, params=params))
        return 0
    mode: TaskMode = "translate_speech" if args.speech else "translate"
    model.require(mode)
    params = sampling(args, DEFAULTS[mode].sampling)
    return _each(
        args, lambda s: model.translate(s, speech=args.speech, target=args.to, params=params)
    )


def run_caption(args: argparse.Namespace) -> int:
    """Describe recordings; returns the exit status.

    Raises:
        StepAudioError: the model cannot be loaded or lacks the mode.
    """
    accept_any_text()
    from stepaudio.tasks.modes import DEFAULTS

    model = load(args)
    mode: TaskMode = "describe" if args.detailed else "caption"
    model.require(mode)
    params = sampling(args, DEFAULTS[mode].sampling)
    describe = model.describe if args.detailed else model.caption
    return _each(args, lambda source: describe(source, params))


def _each(args: argparse.Namespace, answer: Callable[[AudioSource], Reply]) -> int:
    """Answer for every recording; what cannot be read is reported, and the others go on."""
    files = expand_paths(args.paths)
    if STDIN in files and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("-: standard input is a terminal; pipe audio into it")
    failed = False
    for file in files:
        try:
            reply = answer(sys.stdin.buffer.read() if file == STDIN else file)
        except StepAudioError as error:
            failed = True
            report(str(error))
            continue
        _show(args, file, reply, with_name=len(files) > 1)
    return 1 if failed else 0


def _show(
    args: argparse.Namespace, file: str | None, reply: Reply, *, with_name: bool = False
) -> None:
    from stepaudio.cli.formats import one_line
    from stepaudio.cli.replies import render_reply

    text = render_reply(reply, as_json=args.json, file=file, model=args.model)
    echo(f"{one_line(file or '')}: {text}" if with_name and not args.json else text)
