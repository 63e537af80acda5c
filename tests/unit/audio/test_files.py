import errno
import os
from pathlib import Path

import pytest

from stepaudio.audio.files import expand_paths


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.wav", "a.flac", "notes.txt", "sub/c.MP3", "sub/deep/d.opus", ".hidden/e.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "sub" / "._c.mp3").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "take[1].wav").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folder_is_searched_in_order(tree: Path) -> None:
    assert expand_paths(["sub", tree]) == [
        "sub/c.MP3",
        "sub/deep/d.opus",
        *(str(tree / name) for name in ("a.flac", "b.wav", "take[1].wav")),
    ]


def test_paths_stay_as_given_and_come_once(tree: Path) -> None:
    given = ["./b.wav", "notes.txt", "-", "b.wav", str(tree / "a.flac"), "a.flac", "-"]
    assert expand_paths(given) == ["./b.wav", "notes.txt", "-", str(tree / "a.flac")]


def test_globs(tree: Path) -> None:
    assert expand_paths(["*.wav"]) == ["b.wav", "take[1].wav"]
    assert expand_paths(["*"]) == ["a.flac", "b.wav", "sub/c.MP3", "sub/deep/d.opus", "take[1].wav"]
    assert expand_paths(["**/*.opus"]) == ["sub/deep/d.opus"]
    assert expand_paths(["*.txt"]) == ["notes.txt"]
    assert expand_paths(["take[1].wav"]) == ["take[1].wav"]  # the file wins over the pattern


def test_what_stands_for_nothing_is_kept(tree: Path) -> None:
    assert expand_paths(["none.wav", "*.xyz", "empty"]) == ["none.wav", "*.xyz", "empty"]


def test_unreadable_folder_is_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def deny(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    assert expand_paths(["sub"]) == ["sub/c.MP3", "sub/deep"]
