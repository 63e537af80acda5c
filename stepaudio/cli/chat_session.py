"""Turns of ``stepaudio chat``: asked, answered with the help of tools, shown and spoken."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from stepaudio.audio.files import STDIN
from stepaudio.cli.chat_tools import ChatTools
from stepaudio.cli.console import echo, report
from stepaudio.cli.speech import SpokenAnswers
from stepaudio.errors import StepAudioError

if TYPE_CHECKING:
    from stepaudio.audio.decoding import AudioSource
    from stepaudio.generation.sampling import SamplingParams
    from stepaudio.tasks.dialogue import Dialogue
    from stepaudio.tasks.reply import Reply


class AnswerSpeaker(Protocol):
    """Makes answers sound."""

    def add(self, reply: Reply) -> None:
        """Speak an answer."""

    def check(self) -> None:
        """Raise an error if nothing was spoken."""


class SpokenCodes:
    """Answers whose audio codes the model has generated."""

    def __init__(self, answers: SpokenAnswers) -> None:
        self._answers = answers

    def add(self, reply: Reply) -> None:
        """See `AnswerSpeaker`."""
        self._answers.add(reply.codes)

    def check(self) -> None:
        """See `AnswerSpeaker`."""
        self._answers.check()


class ChatSession:
    """One run of the command."""

    def __init__(
        self, args: argparse.Namespace, tools: ChatTools, speaker: AnswerSpeaker | None
    ) -> None:
        self._args = args
        self._tools = tools
        self._speaker = speaker

    def turn(
        self,
        dialogue: Dialogue,
        params: SamplingParams,
        *,
        text: str | None = None,
        audio: str | None = None,
    ) -> None:
        """Ask, answer the calls, and show every reply.

        Raises:
            StepAudioError: something cannot be read or does not fit.
        """
        reply = dialogue.say(
            text=text, audio=None if audio is None else source(audio), params=params
        )
        self.show(reply, **_heard(dialogue))
        for further in self._tools.answers(dialogue, reply, params):
            self.show(further)

    def converse(self, dialogue: Dialogue, params: SamplingParams) -> int:
        """Answer every line of standard input; a turn that fails is reported and left out."""
        failed = False
        for line in _turns():
            for duration in self._tools.expired_timers():
                report(f"the timer of {duration} has run out")
            try:
                if line.startswith("@"):
                    self.turn(dialogue, params, audio=line[1:].strip())
                else:
                    self.turn(dialogue, params, text=line)
            except StepAudioError as error:
                failed = True
                report(str(error))
        return 1 if failed else 0

    def show(self, reply: Reply, **about: Any) -> None:
        """Print a reply and add it to what is spoken."""
        from stepaudio.cli.replies import render_reply

        args = self._args
        about |= {"model": args.model, "file": args.audio, "out": args.out}
        echo(render_reply(reply, as_json=args.json, **about))
        if self._speaker is not None:
            self._speaker.add(reply)


def source(file: str) -> AudioSource:
    """What ``--audio`` names."""
    return sys.stdin.buffer.read() if file == STDIN else file


def _heard(dialogue: Dialogue) -> dict[str, Any]:
    """What was made of a spoken question, where the model writes it down."""
    from stepaudio.tasks.transcript_dialogue import TranscriptDialogue

    if not isinstance(dialogue, TranscriptDialogue) or dialogue.heard is None:
        return {}
    return {"heard": dialogue.heard.text, "confidence": round(dialogue.heard.confidence, 3)}


def _turns() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.strip()
