"""`stepaudio-train list | show RECIPE | run RECIPE [--config NAME|FILE] [key.path=value ...]`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from stepaudio.errors import ConfigError, StepAudioError

# Recipe name -> module with `Config` (a dataclass) and `main(config)`; the docstring's first
# line says what it does.
RECIPES = {
    "prepare": "stepaudio_recipes.prepare",
    "tokenizer": "stepaudio_recipes.tokenizer",
    "pretrain": "stepaudio_recipes.pretrain",
    "words": "stepaudio_recipes.words",
    "mtp": "stepaudio_recipes.mtp",
    "token2wav": "stepaudio_recipes.token2wav",
    "vocoder": "stepaudio_recipes.vocoder",
    "codec": "stepaudio_recipes.codec",
    "speech_pretrain": "stepaudio_recipes.speech_pretrain",
    "code_reader": "stepaudio_recipes.code_reader",
    "speech_reward": "stepaudio_recipes.speech_reward",
    "assemble": "stepaudio_recipes.assemble",
}


def _configs(recipe: str) -> dict[str, Path]:
    folder = Path(str(files("stepaudio_recipes"))) / "configs" / recipe
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _config_path(recipe: str, config: str) -> Path:
    known = _configs(recipe)
    path = known.get(config, Path(config))
    if not path.is_file():
        raise ConfigError(f"{config}: no such file, and no config of {recipe} ({', '.join(known)})")
    return path


def _list() -> None:
    for name, module_name in RECIPES.items():
        summary = (importlib.import_module(module_name).__doc__ or "").splitlines()[0]
        print(f"{name:15} {summary}  [configs: {', '.join(_configs(name))}]")


def _run(recipe: str, config: str, overrides: Sequence[str]) -> None:
    from stepaudio_recipes.config import load_config

    module = importlib.import_module(RECIPES[recipe])
    module.main(load_config(module.Config, _config_path(recipe, config), overrides))


def build_parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    parser = argparse.ArgumentParser(prog="stepaudio-train", description="Run training recipes.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the recipes and their configs")
    for name, text in (("show", "print a config"), ("run", "run a recipe; resumes by itself")):
        command = commands.add_parser(name, help=text)
        command.add_argument("recipe", choices=sorted(RECIPES))
        command.add_argument("--config", default="nano", help="name of a shipped config or a file")
        if name == "run":
            command.add_argument("overrides", nargs="*", metavar="key.path=value")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser()
    # argparse itself finds no overrides behind an option.
    args, behind = parser.parse_known_args(argv)
    if args.command != "run" or any(item.startswith("-") for item in behind):
        args = parser.parse_args(argv)
    else:
        args.overrides += behind
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        if args.command == "list":
            _list()
        elif args.command == "show":
            print(_config_path(args.recipe, args.config).read_text(), end="")
        else:
            _run(args.recipe, args.config, args.overrides)
    except StepAudioError as error:
        print(f"stepaudio-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stepaudio-train: interrupted; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
