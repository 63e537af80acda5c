import errno
import os
from pathlib import Path

import pytest

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio.errors import OutputError


def test_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_atomic(path, "eins")
    write_text_atomic(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert os.listdir(tmp_path) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "permission denied")],
)
def test_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=message) as error:
        write_text_atomic(path, "new")
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a regular file"):
        write_bytes_atomic(tmp_path, b"x")
    with pytest.raises(OutputError, match="not a regular file"):
        write_bytes_atomic("/dev/null", b"x")
    with pytest.raises(OutputError, match="there is no folder"):
        write_bytes_atomic(tmp_path / "none" / "a", b"x")
