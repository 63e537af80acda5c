"""What an output folder knows about its transcripts."""

import os

from stepaudio.cli.journal import JOURNAL_FILE, Journal, fingerprint


def test_a_fingerprint_is_of_the_file_and_the_options(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(b"abc")
    first = fingerprint(str(file), {"model": "nano"})
    assert first == fingerprint(os.path.relpath(file), {"model": "nano"})
    assert first != fingerprint(str(file), {"model": "other"})
    file.write_bytes(b"abcd")
    assert first != fingerprint(str(file), {"model": "nano"})
    assert fingerprint(str(tmp_path / "gone"), {}) is None
    assert fingerprint(str(tmp_path), {}) is None


def test_what_was_noted_is_known_while_the_file_is_there(tmp_path):
    journal = Journal(tmp_path)
    assert not journal.has("a.txt", "x")
    (tmp_path / "a.txt").write_text("hello")
    journal.note("a.txt", "x")
    journal.note("b.txt", None)  # of standard input
    for known in (journal, Journal(tmp_path)):
        assert known.has("a.txt", "x")
        assert not known.has("a.txt", "y")
        assert not known.has("a.txt", None)
        assert not known.has("b.txt", None)
    (tmp_path / "a.txt").unlink()
    assert not Journal(tmp_path).has("a.txt", "x")


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    journal = Journal(tmp_path)
    journal.note("a.txt", "old")
    journal.note("a.txt", "new")
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(
        path.read_bytes() + b'\xff[1]\n7\n{"output": 3, "fingerprint": 4}\n{"output": "b.t'
    )
    again = Journal(tmp_path)
    assert again.has("a.txt", "new")
    assert len(path.read_text().splitlines()) == 1
    again.note("b.txt", "z")
    assert Journal(tmp_path).has("b.txt", "z")
