"""``stepaudio chat``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from stepaudio.catalog import DEFAULT_VOICE
from stepaudio.cli.chat_session import AnswerSpeaker, ChatSession, SpokenCodes, source
from stepaudio.cli.chat_tools import BUILTIN, NO_TOOLS, ChatTools
from stepaudio.cli.console import UsageError, accept_any_text
from stepaudio.cli.options import add_model_options, add_sampling_options, load, sampling
from stepaudio.cli.read_answers import ReadAnswers
from stepaudio.cli.speech import SpokenAnswers, add_voice_option, check_out

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio

EPILOG = """\
examples:
  stepaudio chat --audio question.wav --out reply.wav        nano: a spoken question, answered
  stepaudio chat --text "set a timer for five minutes" --system "you are ada a cheerful chef"
  stepaudio chat --model DIR --audio question.wav            spoken question, spoken answer
  stepaudio chat --model DIR --text "Why is the sky blue?"   written question and answer
  stepaudio chat --model DIR --audio question.wav --out reply.wav --voice emodb03
  stepaudio chat --model DIR --audio a.wav --question "Who speaks?"
  stepaudio chat --model DIR --tools tools.json --audio q.wav --tool-result "17 degrees"
  stepaudio chat --model DIR < turns.txt                     a turn on each line; @FILE is audio
"""


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--audio", metavar="FILE", help="spoken question; - for standard input")
    parser.add_argument("--text", metavar="TEXT", help="written question, behind the audio if any")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument(
        "--reply",
        choices=("auto", "text", "speech"),
        default="auto",
        help="kind of answer; auto: that of the question (default: %(default)s)",
    )
    parser.add_argument("--think", action="store_true", help="think before answering (Think)")
    parser.add_argument(
        "--tools",
        metavar="builtin|none|FILE",
        help="tools to call: builtin ones (time, date, timer, weather: a made-up sample), or those "
        "of a JSON list of OpenAI function schemas, whose results you give (default: builtin where "
        "the checkpoint knows them by name, as nano does, else none)",
    )
    parser.add_argument(
        "--tool-result",
        action="append",
        default=[],
        metavar="TEXT",
        help="result of the next tool call that the model makes; repeat for several",
    )
    parser.add_argument("--question", metavar="TEXT", help="answer this about the --audio")
    parser.add_argument("--read-aloud", metavar="TEXT", help="speak this text (Base)")
    parser.add_argument("--out", metavar="FILE", help="write the spoken answers, as .wav or such")
    add_voice_option(parser, default=DEFAULT_VOICE)
    parser.add_argument("--json", action="store_true", help="one JSON object for each answer")
    add_model_options(parser)
    add_sampling_options(parser)


def run_chat(args: argparse.Namespace) -> int:
    """Converse, and print every answer; returns the exit status.

    Raises:
        UsageError: the arguments do not fit each other.
        StepAudioError: something cannot be read or loaded, or the model lacks the mode.
    """
    accept_any_text()
    _check(args)
    model = load(args)
    tools = ChatTools.from_arguments(args, model.config.dialogue.tools)
    speaker = None if args.out is None else _speaker(args, model)
    status = _answer(args, model, tools, speaker)
    if speaker is not None and not status:
        speaker.check()
    return status


def _speaker(args: argparse.Namespace, model: StepAudio) -> AnswerSpeaker:
    if model.config.dialogue.hearing == "transcript":
        return ReadAnswers.from_arguments(args, model)
    return SpokenCodes(SpokenAnswers.from_arguments(args))


def _answer(
    args: argparse.Namespace,
    model: StepAudio,
    tools: ChatTools,
    speaker: AnswerSpeaker | None,
) -> int:
    from stepaudio.tasks.modes import DEFAULTS

    session = ChatSession(args, tools, speaker)
    if args.read_aloud is not None:
        params = sampling(args, DEFAULTS["read_aloud"].sampling)
        session.show(model.read_aloud(args.read_aloud, params))
        return 0
    if args.question is not None:
        params = sampling(args, DEFAULTS["audio_qa"].sampling)
        session.show(model.ask(source(args.audio), args.question, params))
        return 0
    speech = _wants_speech(args, model.modes)
    dialogue = model.dialogue(
        speech=speech, system=args.system, think=args.think, tools=tools.schemas
    )
    params = sampling(args, dialogue.default_params)
    if args.audio is None and args.text is None:
        return session.converse(dialogue, params)
    session.turn(dialogue, params, text=args.text, audio=args.audio)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.question is not None and args.audio is None:
        raise UsageError("--question is about an audio: add --audio FILE")
    if args.tool_result and args.tools in (None, BUILTIN, NO_TOOLS):
        raise UsageError("--tool-result needs the tools: add --tools FILE")
    alone = [name for name in ("question", "read_aloud") if getattr(args, name) is not None]
    others = [name for name in ("text", "tools", "system") if getattr(args, name) is not None]
    if len(alone) > 1 or (alone and others):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in (alone + others)[:2])
        raise UsageError(f"{names}: these do not go together")
    if args.voice is not None and args.out is None:
        raise UsageError("--voice is for speech that is written: add --out FILE")
    if args.out is not None:
        check_out(args.out)
        if args.reply == "text" or args.question is not None:
            raise UsageError("--out is for spoken answers, but this one is text")
    asks = (args.audio, args.text, args.question, args.read_aloud)
    if all(value is None for value in asks) and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("nothing to answer: give --audio FILE or --text TEXT, or pipe turns in")


def _wants_speech(args: argparse.Namespace, modes: tuple[str, ...]) -> bool:
    if args.reply != "auto":
        return bool(args.reply == "speech")
    if args.out is not None:
        return True
    if "chat" not in modes and "voice_chat" in modes:
        return True
    return args.audio is not None and "voice_chat" in modes
