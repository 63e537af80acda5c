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
from stepaudio.cli.speech import DEFAULT_VOICE, SpokenAnswers, add_voice_option, check_out
from stepaudio.errors import StepAudioError, ToolError

if TYPE_CHECKING:
    from stepaudio.audio.decoding import AudioSource
    from stepaudio.generation.sampling import SamplingParams
    from stepaudio.tasks.dialogue import Dialogue
    from stepaudio.tasks.reply import Reply
    from stepaudio.tasks.step_audio import StepAudio

EPILOG = """\
examples:
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
    tools = _read_tools(args.tools)
    model = load(args)
    speaker = None if args.out is None else SpokenAnswers.from_arguments(args)
    status = _answer(args, model, tools, speaker)
    if speaker is not None and not status:
        speaker.check()
    return status


def _answer(
    args: argparse.Namespace,
    model: StepAudio,
    tools: list[dict[str, Any]],
    speaker: SpokenAnswers | None,
) -> int:
    from stepaudio.tasks.modes import DEFAULTS

    if args.read_aloud is not None:
        params = sampling(args, DEFAULTS["read_aloud"].sampling)
        return _show(args, model.read_aloud(args.read_aloud, params), speaker)
    if args.question is not None:
        params = sampling(args, DEFAULTS["audio_qa"].sampling)
        return _show(args, model.ask(_source(args.audio), args.question, params))
    speech = _wants_speech(args, model.modes)
    dialogue = model.dialogue(speech=speech, system=args.system, think=args.think, tools=tools)
    params = sampling(args, DEFAULTS["voice_chat" if speech else "chat"].sampling)
    if args.audio is None and args.text is None:
        return _converse(args, dialogue, params, speaker)
    reply = dialogue.say(
        text=args.text, audio=None if args.audio is None else _source(args.audio), params=params
    )
    _show(args, reply, speaker)
    results = list(args.tool_result)
    while results and reply.tool_calls:
        count = len(reply.tool_calls)
        if len(results) < count:
            raise ToolError(f"the model made {count} calls, but {len(results)} results are left")
        reply = dialogue.answer_tools(results[:count], params)
        del results[:count]
        _show(args, reply, speaker)
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


def _converse(
    args: argparse.Namespace,
    dialogue: Dialogue,
    params: SamplingParams,
    speaker: SpokenAnswers | None,
) -> int:
    """Answer every line of standard input; a turn that fails is reported and left out."""
    failed = False
    for line in _turns():
        try:
            if line.startswith("@"):
                reply = dialogue.say(audio=line[1:].strip(), params=params)
            else:
                reply = dialogue.say(text=line, params=params)
            _show(args, reply, speaker)
        except StepAudioError as error:
            failed = True
            report(str(error))
    return 1 if failed else 0


def _turns() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def _show(args: argparse.Namespace, reply: Reply, speaker: SpokenAnswers | None = None) -> int:
    from stepaudio.cli.replies import render_reply

    about = {"model": args.model, "file": args.audio, "out": args.out}
    echo(render_reply(reply, as_json=args.json, **about))
    if speaker is not None:
        speaker.add(reply.codes)
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
