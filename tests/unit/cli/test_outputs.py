import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.cli.formats import Result
from stepaudio.cli.outputs import FolderOutput, StreamOutput, output_stems
from stepaudio.errors import OutputError
from stepaudio.tasks.transcript import Segment, Transcript


def result(file: str, text: str = "hello") -> Result:
    return Result(file, Transcript(text, (Segment(0.0, 1.0, text),), 2.0), "nano", "en")


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        (["a.wav", "dir/b.mp3", "-"], ["a", "b", "stdin"]),
        (["x/a.wav", "x/a.mp3", "x/b.wav"], ["a.wav", "a.mp3", "b"]),
        (["/x/a.wav", "/y/a.wav"], ["x-a.wav", "y-a.wav"]),
        (["/p/x/a.wav", "/q/x/a.wav"], ["p-x-a.wav", "q-x-a.wav"]),
        # What one of them turns into is the name of a third.
        (["/d/a.wav", "/d/a.mp3", "/d/a.wav.ogg"], ["d-a.wav", "a.mp3", "a.wav.ogg"]),
        (["/d/A.wav", "/d/a.wav"], ["d-A.wav", "d-a.wav-2"]),
        (["-", "stdin.wav"], ["stdin", "stdin.wav"]),
    ],
)
def test_output_stems(files, stems):
    assert output_stems(files) == stems


PARTS = st.sampled_from(["a", "A", "b", "a.wav", "b.mp3", "stdin", "a-b", "a.wav-2", "c.d"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join), unique=True, max_size=8))
def test_output_stems_are_always_different(files):
    stems = [stem.casefold() for stem in output_stems(files)]
    assert len(set(stems)) == len(files)
    assert not any("/" in stem or stem in ("", ".", "..") for stem in stems)


def test_text_of_several_files_names_them():
    assert StreamOutput("text", with_names=False).add(0, result("a.wav")) == "hello\n"
    assert StreamOutput("text", with_names=True).add(0, result("a\nb.wav")) == "a\\nb.wav: hello\n"


def test_folder_is_made_and_old_results_are_replaced(tmp_path):
    folder = tmp_path / "new" / "folder"
    output = FolderOutput(str(folder), "text", ["a.wav", "b.wav"])
    (folder / "b.txt").write_text("old")
    line = output.add(1, result("b.wav", "new"))
    assert line == f"b.wav -> {folder / 'b.txt'}\n"
    assert (folder / "b.txt").read_text() == "new\n"
    assert os.listdir(folder) == ["b.txt"]


def test_folder_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(OutputError, match=rf"{path}: is a file, not a folder"):
        FolderOutput(str(path), "text", ["a.wav"])
    with pytest.raises(OutputError, match=rf"{path / 'sub'}: cannot be written: not a directory"):
        FolderOutput(str(path / "sub"), "text", ["a.wav"])


def test_folder_that_cannot_be_written():
    folder = "/proc/self" if os.geteuid() == 0 else "/"
    with pytest.raises(OutputError, match=rf"{folder}: cannot be written"):
        FolderOutput(folder, "text", ["a.wav"])


def test_output_that_is_a_folder(tmp_path):
    output = FolderOutput(str(tmp_path), "json", ["a.wav"])
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match=r"a\.json: cannot be written"):
        output.add(0, result("a.wav"))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a.json"]
