"""Arguments that several commands share; nothing slow is imported here."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from stepaudio.catalog import DEFAULT_MODEL
from stepaudio.cli.console import UsageError

if TYPE_CHECKING:
    import torch

    from stepaudio.generation.sampling import SamplingParams
    from stepaudio.tasks.step_audio import StepAudio

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_INT8 = "int8"
_SAMPLING = {
    "temperature": (float, "0 takes the most probable token"),
    "top_p": (float, "sample from the smallest set of tokens with this probability"),
    "top_k": (int, "sample from so many most probable tokens"),
    "repetition_penalty": (float, "of tokens that are there already"),
    "audio_repetition_penalty": (float, "the same for audio tokens (default: as for text)"),
    "max_new_tokens": (int, "longest answer in tokens"),
    "seed": (int, "makes sampling reproducible"),
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, and where it runs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="nano|DIR|HF-ID",
        help="a name of `stepaudio models`, a folder, or an id of the Hugging Face Hub "
        "(default: %(default)s)",
    )
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")
    group.add_argument(
        "--variant",
        choices=("instruct", "base", "think"),
        help="kind of checkpoint (default: what its configuration or name says)",
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU where there is one (default: %(default)s)",
    )
    group.add_argument(
        "--dtype",
        choices=(*_DTYPES, _INT8),
        help="type of the weights (default: fp32 on a CPU, else as stored); int8: a byte for "
        "each of the decoder's on a CPU, unless it is too small to gain by it",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How the answer is sampled; what is not given is as in the public examples."""
    group = parser.add_argument_group("sampling (default: as in the public examples)")
    for name, (kind, text) in _SAMPLING.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)


def load(args: argparse.Namespace) -> StepAudio:
    """The checkpoint that the arguments name; its weights follow when they are needed.

    Raises:
        StepAudioError: it cannot be found, or its small files are damaged.
    """
    import torch

    from stepaudio.tasks.step_audio import StepAudio

    dtype: torch.dtype | None = None
    if args.dtype in _DTYPES:
        dtype = getattr(torch, _DTYPES[args.dtype])
    return StepAudio.from_pretrained(
        args.model,
        device=args.device,
        dtype=dtype,
        precision="int8" if args.dtype == _INT8 else "float",
        revision=args.revision,
        variant=args.variant,
        progress=sys.stderr is not None and sys.stderr.isatty(),
        lazy=True,
    )


def sampling(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    """The sampling of a mode with what the arguments change.

    Raises:
        UsageError: a value is out of range.
    """
    import dataclasses

    given = {name: getattr(args, name) for name in _SAMPLING if getattr(args, name) is not None}
    try:
        return dataclasses.replace(defaults, **given)
    except ValueError as error:
        raise UsageError(str(error)) from error
