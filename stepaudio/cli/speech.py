"""``stepaudio resynth``, and what every command that speaks shares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stepaudio.audio.files import STDIN
from stepaudio.catalog import DEFAULT_MODEL, DEFAULT_VOICE, find_voice, list_voices
from stepaudio.cli.console import UsageError, accept_any_text, echo
from stepaudio.errors import AudioTokenError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from stepaudio.models.token2wav.token2wav import SpeechVoice, Token2Wav

RESYNTH_EPILOG = """\
examples:
  stepaudio resynth in.wav out.wav --model DIR                    what audio tokens keep of it
  stepaudio resynth in.wav out.wav --model DIR --voice emodb03    the same words, another voice
"""


def add_resynth(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("input", metavar="IN", help="recording; - for standard input")
    parser.add_argument("out", metavar="OUT", help="file to write; its suffix says the format")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="nano|DIR|HF-ID",
        help="a checkpoint with a token2wav folder, or that folder (default: %(default)s)",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU where there is one (default: %(default)s)",
    )
    add_voice_option(parser, default="that of the recording, at least 1 s long")
    parser.add_argument(
        "--mode",
        choices=("exact", "reference"),
        help="exact: streamed sound equals offline sound; reference: as the public code "
        "(default: what the checkpoint says)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the noise")


def add_voice_option(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Argument ``--voice``; `default` is what its help says."""
    names = ", ".join(f"{name} ({what})" for name, what in list_voices().items())
    parser.add_argument(
        "--voice",
        metavar="NAME|FILE",
        help=f"voice: a recording of 1 to 15 s, or {names} (default: {default})",
    )


def check_out(out: str) -> None:
    """Make sure that a file of sound can have this name, before anything slow begins.

    Raises:
        UsageError: the suffix is unknown.
        OutputError: there is no such folder.
    """
    from stepaudio.audio.io import OUTPUT_SUFFIXES

    if Path(out).suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError(f"{out}: the suffix must be one of {', '.join(OUTPUT_SUFFIXES)}")
    folder = Path(out).parent
    if not folder.is_dir():
        raise OutputError(f"{out}: cannot be written: there is no folder {folder}")


def run_resynth(args: argparse.Namespace) -> int:
    """Tokenise a recording and speak its tokens; returns the exit status.

    Raises:
        UsageError: the suffix of the output is unknown, or the seed is negative.
        StepAudioError: something cannot be read, loaded or written, or serves as no voice.
    """
    from stepaudio.audio.io import load_audio, save_audio
    from stepaudio.models.token2wav.token2wav import Token2Wav

    accept_any_text()
    check_out(args.out)
    if args.seed is not None and args.seed < 0:
        raise UsageError(f"--seed must not be negative, got {args.seed}")
    source = sys.stdin.buffer.read() if args.input == STDIN else args.input
    name = "standard input" if args.input == STDIN else args.input
    engine = Token2Wav.from_pretrained(
        args.model, device=args.device, revision=args.revision, mode=args.mode
    )
    recording = load_audio(source, name=name)
    voice = (
        engine.prepare_voice(source, name=name)
        if args.voice is None
        else engine.prepare_voice(find_voice(args.voice))
    )
    codes = engine.tokenize(recording.samples)
    wav = engine.synthesize(codes, voice, seed=args.seed)
    save_audio(args.out, wav, engine.sample_rate)
    echo(f"{name} -> {args.out}: {len(wav) / engine.sample_rate:.2f} s, {len(codes)} audio codes\n")
    return 0


class SpokenAnswers:
    """One file with the sound of all answers so far, one behind the other."""

    def __init__(self, engine: Token2Wav, voice: SpeechVoice, out: str) -> None:
        self._engine = engine
        self._voice = voice
        self._out = out
        self._spoken: list[Tensor] = []

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> SpokenAnswers:
        """Load what speaks, and the voice.

        Raises:
            StepAudioError: the checkpoint cannot speak, or the voice cannot be used.
        """
        from stepaudio.models.token2wav.token2wav import Token2Wav

        engine = Token2Wav.from_pretrained(args.model, device=args.device, revision=args.revision)
        voice = engine.prepare_voice(find_voice(args.voice or DEFAULT_VOICE))
        return cls(engine, voice, args.out)

    def add(self, codes: Sequence[int]) -> None:
        """Speak an answer and write the file anew; an answer without codes is silent.

        Raises:
            AudioTokenError: a code is outside of the codebook.
            OutputError: the file cannot be written.
        """
        from stepaudio.audio.io import save_audio

        if not codes:
            return
        import torch

        self._spoken.append(self._engine.synthesize(codes, self._voice))
        save_audio(self._out, torch.cat(self._spoken), self._engine.sample_rate)

    def check(self) -> None:
        """Make sure that something was spoken.

        Raises:
            AudioTokenError: nothing was.
        """
        if not self._spoken:
            raise AudioTokenError(f"{self._out}: not written: no answer has audio tokens")
