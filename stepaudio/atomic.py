"""Output files that are either the old or the whole new ones, whatever happens in between."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from stepaudio.errors import OutputError


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write UTF-8 text so that the file is either the old or the whole new one.

    Raises:
        OutputError: no permission, no space, no such folder, or the path is not a file.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write bytes so that the file is either the old or the whole new one.

    Raises:
        OutputError: no permission, no space, no such folder, or the path is not a file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # replacing a folder or device would destroy it
        raise OutputError(f"{path}: cannot be written: it is not a regular file")
    # The same folder, because a rename is atomic within one file system only.
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_reason(error, path)}") from error


def _reason(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOENT:
        return f"there is no folder {path.parent}"
    if error.errno == errno.ENOSPC:
        return "no space left on the disk"
    return (error.strerror or str(error)).lower()
