"""What a model of the small dialogue world gets right, skill by skill.

    python benchmarks/dialogue.py [--model nano] [--conversations 100] [--misheard]
    python benchmarks/dialogue.py --speech flite:slt --conversations 30

Questions of held-out templates, names, places, words, durations and sentences, in conversations
with the model's own answers as history. A turn is right if the call has the right name and
arguments, and the answer is the right one word for word; tools give the results that the
conversation was drawn with. With ``--speech`` every question is spoken by a synthesizer and heard
by the model, and what was drawn as misheard is spoken as it was meant.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from stepaudio import StepAudio
from stepaudio.tasks.transcript_dialogue import TranscriptDialogue
from stepaudio.text.wer import word_error_rate
from stepaudio.tools import builtin_tools
from stepaudio_recipes.dialogue_world import REFUSALS, Conversation, Turn, World, WorldConfig

OUTSIDE = ("noise", "foreign")


@dataclass(frozen=True)
class Outcome:
    """What became of one turn."""

    turn: Turn
    heard: str
    answer: str
    called_right: bool

    @property
    def is_right(self) -> bool:
        """Call and answer are the wanted ones."""
        return self.called_right and self.answer == self.turn.answer

    @property
    def is_refusal(self) -> bool:
        """The answer promises nothing."""
        return self.answer in REFUSALS


def speak(text: str, voice: str) -> bytes:
    """A WAV file of a text, by ``flite:VOICE`` or ``espeak-ng:VOICE``."""
    program, _, name = voice.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.wav")
        flags = ["-voice", name, "-t", text, "-o", out]
        if program == "espeak-ng":
            flags = ["-v", name, "-w", out, text]
        subprocess.run([program, *flags], check=True, capture_output=True)
        return Path(out).read_bytes()


def outcomes(
    model: StepAudio, conversation: Conversation, say: Callable[[Turn], dict[str, Any]]
) -> list[Outcome]:
    """Have one conversation."""
    declared = [
        schema
        for schema in builtin_tools().schemas
        if schema["function"]["name"] in conversation.tools
    ]
    dialogue = model.dialogue(system=conversation.system, tools=declared)
    assert isinstance(dialogue, TranscriptDialogue)
    found = []
    for turn in conversation.turns:
        reply = dialogue.say(**say(turn))
        heard = turn.user if dialogue.heard is None else dialogue.heard.text
        calls = [(call.name, dict(call.arguments)) for call in reply.tool_calls]
        wanted = [] if turn.call is None else [(turn.call.name, dict(turn.call.arguments))]
        if reply.tool_calls:
            results = [turn.result or "error no answer"] * len(reply.tool_calls)
            reply = dialogue.answer_tools(results)
        found.append(Outcome(turn, heard, reply.text, calls == wanted))
    return found


def table(found: list[Outcome]) -> str:
    """Results by skill, and of all."""
    by_skill: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in found:
        by_skill[outcome.turn.skill].append(outcome)
    lines = [f"{'skill':16}{'turns':>6}{'right':>8}{'calls':>8}{'refused':>9}"]
    for skill, some in sorted(by_skill.items()):
        lines.append(row(skill, some))
    inside = [o for o in found if o.turn.skill not in OUTSIDE and o.turn.answer not in REFUSALS]
    outside = [o for o in found if o.turn.skill in OUTSIDE]
    garbled = [o for o in found if o.turn.skill not in OUTSIDE and o.turn.answer in REFUSALS]
    for name, some in (("in the world", inside), ("outside", outside), ("garbled", garbled)):
        if some:
            lines.append(row(name, some))
    return "\n".join(lines)


def row(name: str, some: list[Outcome]) -> str:
    """One line of the table, in percent."""
    called = [o for o in some if o.turn.call is not None]
    calls = f"{percent([o.called_right for o in called]):8.0f}" if called else f"{'':8}"
    right = percent([o.is_right for o in some])
    refused = percent([o.is_refusal for o in some])
    return f"{name:16}{len(some):6}{right:8.0f}{calls}{refused:9.0f}"


def percent(values: list[bool]) -> float:
    """Share in percent."""
    return 100 * sum(values) / len(values)


def main() -> None:
    """Have the conversations and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--misheard", action="store_true", help="questions as in training")
    parser.add_argument("--split", choices=("held_out", "train"), default="held_out")
    parser.add_argument("--speech", metavar="PROGRAM:VOICE")
    parser.add_argument("--texts", type=Path, default=Path(".data/nano/texts.txt.gz"))
    parser.add_argument("--lexicon", type=Path, default=Path(".data/nano/cmudict.dict.gz"))
    parser.add_argument("--out", type=Path, help="write every turn as a JSON line")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = WorldConfig() if args.misheard else WorldConfig(severities=((0.0, 1.0),))
    world = World.read(args.texts, args.lexicon, args.split, config)
    model = StepAudio.from_pretrained(args.model)

    def say(turn: Turn) -> dict[str, Any]:
        if args.speech is None:
            return {"text": turn.user}
        return {"audio": speak(turn.user, args.speech)}

    rng = Random(args.seed)
    found: list[Outcome] = []
    for _ in range(args.conversations):
        found += outcomes(model, world.conversation(rng), say)
    print(f"{args.model}, {args.split}, {args.speech or 'text'}, misheard: {args.misheard}")
    print(table(found))
    if args.speech is not None:
        errors = word_error_rate([o.turn.user for o in found], [o.heard for o in found])
        print(f"word errors of what was heard: {100 * errors.rate:.1f} %")
    if args.out is not None:
        lines = [
            json.dumps(
                {
                    "skill": o.turn.skill,
                    "user": o.turn.user,
                    "heard": o.heard,
                    "wanted": o.turn.answer,
                    "answer": o.answer,
                    "called_right": o.called_right,
                    "right": o.is_right,
                }
            )
            for o in found
        ]
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
