"""``stepaudio tts`` as a user runs it, with a small checkpoint whose speech is noise."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import soundfile

from tests.cli.conftest import Command
from tests.speaking import speaking_checkpoint
from tests.unit.models.token2wav.parts import RATE


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking_checkpoint(tmp_path_factory.mktemp("checkpoints") / "speaker")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared voices are kept here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def are_same(one: Path, other: Path) -> bool:
    """Whether two files have the same sound; libraries may round the last bit in either way."""
    (first, rate), (second, other_rate) = (soundfile.read(path) for path in (one, other))
    same_shape = (rate, len(first)) == (other_rate, len(second))
    return same_shape and abs(first - second).max() < 1e-4


def test_a_text(run: Command, speaker: Path, tmp_path: Path, examples: Path) -> None:
    out = tmp_path / "out.wav"
    done = run("tts", "Hello, 2 dogs.", "-o", out, "--model", speaker, "--seed", "3", "--stats")
    assert done.status == 0
    sound = soundfile.info(out)
    assert (sound.samplerate, sound.channels) == (RATE, 1)
    assert done.lines == [f"{out}: {sound.duration:.2f} s of speech"]
    assert len(done.errors) == 1
    assert f"{out}: {sound.duration:.2f} s of speech in " in done.errors[0]
    again = tmp_path / "again.wav"
    # Words behind an option belong to the text; text comes from standard input, too.
    run("tts", "-o", again, "--seed", "3", "--model", speaker, "--json", "hello", "two", "dogs")
    assert are_same(again, out)
    done = run("tts", "--model", speaker, "-o", again, "--seed", "3", stdin=b"Hello, 2 dogs.\xff\n")
    assert are_same(again, out)
    voice = examples / "us_female_1.ogg"
    done = run("tts", "Hello, 2 dogs.", "-o", tmp_path / "b.wav", "--model", speaker, "--seed", "3",
               "--voice", voice)  # fmt: skip
    assert (done.status, done.errors) == (0, [])
    assert not are_same(tmp_path / "b.wav", out)


def test_json_and_instructions(run: Command, speaker: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.flac"
    done = run("tts", "Hello. The dog!", "-o", out, "--model", speaker, "--json",
               "--instruction", "slow, sad")  # fmt: skip
    assert done.status == 0
    assert done.errors == [
        "stepaudio: instruction: ignored sad; used slowly; known are cheerful, quickly, slowly"
    ]
    (spoken,) = done.objects
    assert spoken["out"] == str(out)
    assert spoken["style"] == {"used": ["slowly"], "ignored": ["sad"]}
    assert [s["text"] for s in spoken["sentences"]] == ["hello", "the dog"]
    assert all(s["audio_codes"] and s["attempts"] >= 1 for s in spoken["sentences"])
    assert spoken["duration_s"] == pytest.approx(soundfile.info(out).duration)
    assert spoken["stats"]["rtf"] > 0
    assert spoken["problems"] == []


def test_problems_are_reported(run: Command, speaker: Path, tmp_path: Path) -> None:
    config = speaker / "config.json"
    strict = tmp_path / "strict"
    strict.mkdir()
    for path in speaker.iterdir():
        (strict / path.name).symlink_to(path)
    (strict / "config.json").unlink()
    values = json.loads(config.read_text())
    values["speech"] |= {"seconds_a_phone": 9.0}
    (strict / "config.json").write_text(json.dumps(values))
    out = tmp_path / "out.wav"
    done = run("tts", "Hello.", "-o", out, "--model", strict, "--json", "--stats")
    assert done.status == 0
    assert out.exists()
    (problem,) = done.objects[0]["problems"]
    assert (problem["sentence"], problem["kind"]) == (0, "too_short")
    assert done.objects[0]["sentences"][0]["attempts"] == 2
    assert done.errors[0] == f'stepaudio: {out}: "hello": {problem["detail"]} (too_short)'
    assert done.errors[1].endswith("; 1 sentences generated again")


def test_lines(run: Command, speaker: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_bytes("\ufeffHello.\r\n\n!?! \u2764\nThe dog\x85 \xff!\nTwo dogs, xyzzy!".encode())
    folder = tmp_path / "new" / "speech"
    batch = ("tts", "-i", lines, "--output-dir", folder, "--model", speaker, "--instruction", "sad")
    done = run(*batch)
    assert done.status == 1
    assert sorted(path.name for path in folder.iterdir()) == ["0001.wav", "0004.wav", "0005.wav"]
    assert [line.split(":")[0] for line in done.lines] == [
        str(folder / name) for name in ("0001.wav", "0004.wav", "0005.wav")
    ]
    assert sum("ignored sad" in error for error in done.errors) == 1
    assert [error for error in done.errors if ", line " in error] == [
        f"stepaudio: {lines}, line 2: there is no text; give letters or digits",
        f"stepaudio: {lines}, line 3: nothing in '!?! ❤' can be said; give letters or digits",
    ]
    whole = (folder / "0004.wav").rename(tmp_path / "whole.wav")
    # What is there is kept, and the rest is made as if it were all.
    (folder / "0001.wav").write_bytes(b"mine")
    done = run(*batch)
    assert (done.status, len(done.lines)) == (1, 1)
    assert done.errors[0] == "stepaudio: 2 of 5 files are there already"
    assert are_same(folder / "0004.wav", whole)
    assert (folder / "0001.wav").read_bytes() == b"mine"


def test_lines_from_standard_input(run: Command, speaker: Path, tmp_path: Path) -> None:
    batch = ("tts", "-i", "-", "--output-dir", tmp_path, "--model", speaker, "--format", "ogg")
    done = run(*batch, "--json", stdin=b"Hello.\nThe dog.\n")
    assert (done.status, done.errors) == (0, [])
    assert [(o["line"], Path(o["out"]).name) for o in done.objects] == [
        (1, "0001.ogg"),
        (2, "0002.ogg"),
    ]
    sound, _ = soundfile.read(io.BytesIO((tmp_path / "0002.ogg").read_bytes()))
    assert abs(sound).max() > 0
    done = run(*batch, stdin=b"Hello.\nThe dog.\n")
    assert (done.status, done.out) == (0, b"")
    assert done.errors == ["stepaudio: 2 of 2 files are there already"]
    done = run(*batch, stdin=b"")
    assert (done.status, done.out, done.err) == (0, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["Hi"], 2, "give the file to write: -o FILE"),
        (["Hi", "-o", "o.txt"], 2, "o.txt: the suffix must be one of .wav"),
        (["Hi", "-o", "no/o.wav"], 1, "there is no folder no"),
        (["Hi", "-o", "o.wav", "--output-dir", "d"], 2, "--output-dir DIR is for -i FILE"),
        (["-i", "l.txt"], 2, "give --output-dir DIR"),
        (["-i", "l.txt", "-o", "o.wav"], 2, "give --output-dir DIR"),
        (["-i", "l.txt", "--output-dir", "d", "Hi"], 2, "give either a text or -i FILE"),
        (["-i", "no.txt", "--output-dir", "d"], 1, "no.txt: cannot be read: no such file"),
        (["Hi", "-o", "o.wav", "--seed", "-1"], 2, "--seed must not be negative"),
        (["Hi", "-o", "o.wav", "--voice", "nobody"], 1, "nobody: no such file, and no voice"),
        (["Hi", "-o", "o.wav", "--top-p", "2"], 2, "top_p must lie in (0, 1]"),
        (["?!", "-o", "o.wav"], 1, "nothing in '?!' can be said"),
        (["-o", "o.wav"], 1, "there is no text"),
        (["Hi", "-o", "o.wav", "--model", "no/such"], 1, "no/such"),
        (["Hi", "-o", "o.wav", "--speed", "2"], 2, "--speed"),
    ],
)
def test_bad_requests_are_one_line(
    run: Command, speaker: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    model = [] if "--model" in arguments else ["--model", str(speaker)]
    done = run("tts", *arguments, *model, cwd=tmp_path)
    assert (done.status, done.out) == (status, b"")
    assert len(done.errors) == 1
    assert message in done.errors[0]
    assert not list(tmp_path.glob("o.*"))
