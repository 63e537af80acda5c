"""Arguments of ``stepaudio-webui``; everything slow is imported when the page starts.

Exit status: 0 ended by SIGTERM, 130 by Ctrl-C, 1 something could not be opened,
2 wrong arguments.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from stepaudio.catalog import DEFAULT_MODEL
from stepaudio.errors import ConfigError, StepAudioError
from stepaudio_streaming.cli import port_number, positive, read_keys

_EPILOG = """\
examples:
  stepaudio-webui                                  nano on http://127.0.0.1:7860
  stepaudio-webui --model DIR --port 8080
  stepaudio-webui --server http://gpu:8000 --api-key-file key.txt
"""


def build_parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    parser = argparse.ArgumentParser(
        prog="stepaudio-webui",
        description="Talk with a model, write down speech and read texts aloud, in a browser.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help=f"name, folder or Hub id (default: {DEFAULT_MODEL})")
    add("--device", default="auto", help="cpu, cuda, or auto (default)")
    add("--server", metavar="URL", help="a running stepaudio-serve instead of --model")
    add("--api-key-file", type=Path, help="file with the key of that server")
    add("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    add("--port", type=port_number, default=7860, help="0: any free one (default: %(default)s)")
    add("--share", action="store_true", help="also over a public address of Gradio's")
    add("--max-sessions", type=positive, default=8, help="conversations (default: %(default)s)")
    add(
        "--preferences",
        type=Path,
        metavar="DIR",
        help="folder for decisions between two takes (default: stepaudio/preferences among your "
        "own data)",
    )
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    # No word to anybody about this page, and no logging of every request of its own.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        _check(args)
        from stepaudio_webui.serve import WebOptions, serve

        serve(
            WebOptions(
                model=args.model or DEFAULT_MODEL,
                device=args.device,
                server=args.server,
                api_key=None if args.api_key_file is None else read_keys(args.api_key_file)[0],
                host=args.host,
                port=args.port,
                share=args.share,
                max_sessions=args.max_sessions,
                preferences=args.preferences,
            )
        )
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "fastapi", "uvicorn", "websockets", "httpx", "matplotlib"):
            raise
        print(
            f"stepaudio-webui: needs {error.name}: pip install 'stepaudio[webui]'", file=sys.stderr
        )
        return 1
    except (StepAudioError, OSError) as error:
        print(f"stepaudio-webui: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.server is not None and args.model is not None:
        raise ConfigError("--model and --server exclude each other: a server has its own model")
    if args.api_key_file is not None and args.server is None:
        raise ConfigError("--api-key-file is the key of a --server; give its address too")


if __name__ == "__main__":
    sys.exit(main())
