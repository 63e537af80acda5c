"""Arguments of ``stepaudio-serve``; everything slow is imported when the server starts.

Exit status: 0 ended by SIGTERM, 130 by Ctrl-C, 1 something could not be loaded or opened,
2 wrong arguments.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from stepaudio.catalog import DEFAULT_MODEL
from stepaudio.errors import ConfigError, StepAudioError

_EPILOG = """\
examples:
  stepaudio-serve                                     nano on http://127.0.0.1:8000
  stepaudio-serve --host 0.0.0.0 --api-key-file keys  one key a line
  stepaudio-serve --ssl-certfile c.pem --ssl-keyfile k.pem
"""


def positive(text: str) -> int:
    """Type of an argument: a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def port_number(text: str) -> int:
    """Type of an argument: a port, or 0."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    parser = argparse.ArgumentParser(
        prog="stepaudio-serve",
        description="Serve a model to clients of the OpenAI Realtime and audio APIs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="name, folder or Hub id (default: %(default)s)")
    add("--device", default="auto", help="cpu, cuda, or auto (default)")
    add("--dtype", choices=("fp32", "int8"), help="int8: weights of the decoder, on a CPU")
    add("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    add("--port", type=port_number, default=8000, help="0: any free one (default: %(default)s)")
    add("--api-key-file", type=Path, help="file with one accepted key a line; none: open to all")
    add("--max-sessions", type=positive, default=16, help="at once (default: %(default)s)")
    add("--cors-origin", action="append", default=[], metavar="ORIGIN", help="may be repeated")
    add("--threads", type=positive, help="of the model on a CPU (default: half of the cores)")
    add("--ssl-certfile", type=Path, help="TLS certificate")
    add("--ssl-keyfile", type=Path, help="its private key")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def read_keys(path: Path) -> tuple[str, ...]:
    """Keys of a file, one a line; empty lines and those that begin with # do not count.

    Raises:
        ConfigError: it cannot be read, or has no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise ConfigError(f"{path}: has no key; write one a line, or leave --api-key-file out")
    return keys


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        _check_tls(args)
        from stepaudio_streaming.serve import ServeOptions, serve

        serve(
            ServeOptions(
                model=args.model,
                device=args.device,
                precision="int8" if args.dtype == "int8" else "float",
                host=args.host,
                port=args.port,
                api_keys=() if args.api_key_file is None else read_keys(args.api_key_file),
                max_sessions=args.max_sessions,
                cors_origins=tuple(args.cors_origin),
                threads=args.threads,
                certificate=args.ssl_certfile,
                private_key=args.ssl_keyfile,
            )
        )
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "websockets", "starlette"):
            raise
        print(
            f"stepaudio-serve: needs {error.name}: pip install 'stepaudio[serve]'", file=sys.stderr
        )
        return 1
    except (StepAudioError, OSError) as error:
        print(f"stepaudio-serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _check_tls(args: argparse.Namespace) -> None:
    if (args.ssl_certfile is None) != (args.ssl_keyfile is None):
        raise ConfigError("--ssl-certfile and --ssl-keyfile belong together: give both or none")
    for path in (args.ssl_certfile, args.ssl_keyfile):
        if path is not None and not path.is_file():
            raise ConfigError(f"{path}: there is no such file")


if __name__ == "__main__":
    sys.exit(main())
