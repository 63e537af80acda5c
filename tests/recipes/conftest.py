"""A small data folder in the format of the data bundle; only its manifests and text, no audio."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "black", "white", "brown", "grey", "pink")
THINGS = ("house", "river", "table", "horse", "window", "garden", "letter", "paper", "street")


def _row(path: str, text: str, speaker: str, **extra: Any) -> dict[str, Any]:
    fixed = {"language": "en", "source": "fake", "license": "CC0-1.0", "duration": 1.5}
    return {"audio_filepath": path, "text": text, "speaker": speaker, **fixed, **extra}


def _digits() -> Iterable[dict[str, Any]]:
    for speaker in ("george", "lucas", "theo"):
        for digit, word in enumerate(DIGIT_WORDS):
            for take in range(50):
                yield _row(f"fsdd/{speaker}/{digit}_{take}.ogg", word, speaker)


def _single_speaker() -> Iterable[dict[str, Any]]:
    for number in range(120):
        colour, thing = COLOURS[number % 8], THINGS[number % 9]
        # Two prompts have the same sentence, as in the real corpus.
        text = f"The {colour} {thing}, number {max(number, 1)}."
        for take in range(1 + number % 2):
            path = f"kathleen/a{number:04d}_{take}.ogg"
            yield _row(path, text, "kathleen", prompt_id=f"a{number:04d}", take=take)


def _learners() -> Iterable[dict[str, Any]]:
    for speaker in range(80):
        split, age = ("test", "train")[speaker % 2], (8, 30)[speaker // 2 % 2]
        for item in range(5):
            # Every tenth sentence is shared by all speakers with the same item.
            shared = item == 0 and speaker % 10 < 5
            text = f"WE SEE {'A' if shared else speaker} {THINGS[item]}"
            path = f"speechocean762/{speaker:04d}/{item}.ogg"
            yield _row(path, text, f"{speaker:04d}", orig_split=split, age=age)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _write_gz(path: Path, lines: Iterable[str]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as output:
        output.writelines(f"{line}\n" for line in lines)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a folder with manifests and texts of three small corpora."""
    folder = tmp_path / "data"
    (folder / "manifests").mkdir(parents=True)
    (folder / "text").mkdir()
    corpora = {"fsdd": _digits(), "kathleen": _single_speaker(), "speechocean762": _learners()}
    for name, rows in corpora.items():
        _write_jsonl(folder / "manifests" / f"{name}.jsonl", rows)
    _write_jsonl(folder / "manifests" / "esc10_noise.jsonl", [_row("esc/rain.ogg", "", "")])
    room = [_row("rirs/n.flac", "", "", kind="noise"), _row("rirs/r.flac", "", "", kind="rir")]
    _write_jsonl(folder / "manifests" / "rirs.jsonl", room)
    sentences = [f"I saw {number} {thing} today." for number in range(20) for thing in THINGS]
    # A held-out transcript may also occur in the text; it must not be spoken.
    sentences += [f"The {COLOURS[n % 8]} {THINGS[n % 9]}, number {n}." for n in range(120)]
    turns = ({"turns": [{"text": text}, {"text": "Oh, good."}]} for text in sentences)
    _write_gz(folder / "text" / "topical_chat.jsonl.gz", map(json.dumps, turns))
    words = {*THINGS, *COLOURS, *DIGIT_WORDS, "i", "saw", "today", "good", "number", "the"}
    _write_gz(folder / "text" / "cmudict.dict.gz", (f"{word} X Y" for word in sorted(words)))
    return folder
