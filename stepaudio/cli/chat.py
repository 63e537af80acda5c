"""``stepaudio chat``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudio.audio.files import STDIN
from stepaudio.cli.console import UsageError, accept_any_text, echo, report
from stepaudio.cli.options import add_model_options, add_sampling_options, load, sampling
from stepaudio.errors import StepAudioError, ToolError

if TYPE_CHECKING:
    from stepaudio.audio.decoding import AudioSource
    from stepaudio.generation.sampling import SamplingParams
    from stepaudio.tasks.dialogue import Dialogue
    from stepaudio.tasks.reply import Reply

EPILOG = """\
examples:
  stepaudio chat --model DIR --audio question.wav            spoken question, spoken answer
  stepaudio chat --model DIR --text "Why is the sky blue?"   written question and answer
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
    parser.add_argument("--tools", metavar="FILE", help="JSON list of OpenAI function schemas")
    parser.add_argument(
        "--tool-result",
        action="append",
        default=[],
        metavar="TEXT",
        help="result of the next tool call that the model makes; repeat for several",
    )
    parser.add_argument("--question", metavar="TEXT", help="answer this about the --audio")
    parser.add_argument("--read-aloud", metavar="TEXT", help="speak this text (Base)")
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
    tools = _read_tools(args.tools)
    model = load(args)
    from stepaudio.tasks.modes import DEFAULTS

    if args.read_aloud is not None:
        params = sampling(args, DEFAULTS["read_aloud"].sampling)
        return _show(args, model.read_aloud(args.read_aloud, params))
    if args.question is not None:
        params = sampling(args, DEFAULTS["audio_qa"].sampling)
        return _show(args, model.ask(_source(args.audio), args.question, params))
    speech = _wants_speech(args, model.modes)
    dialogue = model.dialogue(speech=speech, system=args.system, think=args.think, tools=tools)
    params = sampling(args, DEFAULTS["voice_chat" if speech else "chat"].sampling)
    if args.audio is None and args.text is None:
        return _converse(args, dialogue, params)
    reply = dialogue.say(
        text=args.text, audio=None if args.audio is None else _source(args.audio), params=params
    )
    _show(args, reply)
    results = list(args.tool_result)
    while results and reply.tool_calls:
        count = len(reply.tool_calls)
        if len(results) < count:
            raise ToolError(f"the model made {count} calls, but {len(results)} results are left")
        reply = dialogue.answer_tools(results[:count], params)
        del results[:count]
        _show(args, reply)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.question is not None and args.audio is None:
        raise UsageError("--question is about an audio: add --audio FILE")
    if args.tool_result and args.tools is None:
        raise UsageError("--tool-result needs the tools: add --tools FILE")
    alone = [name for name in ("question", "read_aloud") if getattr(args, name) is not None]
    others = [name for name in ("text", "tools", "system") if getattr(args, name) is not None]
    if len(alone) > 1 or (alone and others):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in (alone + others)[:2])
        raise UsageError(f"{names}: these do not go together")
    asks = (args.audio, args.text, args.question, args.read_aloud)
    if all(value is None for value in asks) and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("nothing to answer: give --audio FILE or --text TEXT, or pipe turns in")


def _wants_speech(args: argparse.Namespace, modes: tuple[str, ...]) -> bool:
    if args.reply != "auto":
        return bool(args.reply == "speech")
    if "chat" not in modes and "voice_chat" in modes:
        return True
    return args.audio is not None and "voice_chat" in modes


def _converse(args: argparse.Namespace, dialogue: Dialogue, params: SamplingParams) -> int:
    """Answer every line of standard input; a turn that fails is reported and left out."""
    failed = False
    for line in _turns():
        try:
            if line.startswith("@"):
                reply = dialogue.say(audio=line[1:].strip(), params=params)
            else:
                reply = dialogue.say(text=line, params=params)
        except StepAudioError as error:
            failed = True
            report(str(error))
            continue
        _show(args, reply)
    return 1 if failed else 0


def _turns() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def _show(args: argparse.Namespace, reply: Reply) -> int:
    from stepaudio.cli.replies import render_reply

    echo(render_reply(reply, as_json=args.json, model=args.model, file=args.audio))
    return 0


def _source(file: str) -> AudioSource:
    return sys.stdin.buffer.read() if file == STDIN else file


def _read_tools(file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    try:
        schemas = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolError(
            f"{file}: cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    except ValueError as error:
        raise ToolError(f"{file}: no valid JSON: {error}") from error
    if not isinstance(schemas, list) or not all(isinstance(schema, dict) for schema in schemas):
        raise ToolError(f"{file}: expected a JSON list of OpenAI function schemas")
    return schemas
