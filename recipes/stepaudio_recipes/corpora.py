"""Splits of the real speech corpora: speaker- or sentence-disjoint, the same on every machine."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepaudio.errors import StepAudioError
from stepaudio_recipes.spoken_form import spoken_form
from stepaudio_recipes.texts import seeded_unit

Row = dict[str, Any]

TEST_DIGITS_SPEAKER = "theo"
DEV_DIGITS_SPEAKER = "lucas"
DEV_DIGITS_FIRST_TAKE = 46
NUM_TEST_PROMPTS = 60
NUM_DEV_PROMPTS = 20
NUM_TEST_LEARNERS = 20
NUM_DEV_LEARNERS = 8
ADULT_AGE = 15

_KEPT_FIELDS = ("duration", "language", "speaker", "source", "license")
_EXTRA_FIELDS = ("age", "gender", "accent", "prompt_id", "kind", "sound_class")


@dataclass(frozen=True)
class Splits:
    """Rows of the real speech by split name.

    Attributes:
        rows: Split name (`train_real`, `dev`, `test_digits`, `test_kathleen`, `test_learners`)
            to rows of the manifest schema.
        held_out: Sentences of the test and dev splits, which no training material may hold
            (single digits, which every speaker of digits says, are not among them).
    """

    rows: Mapping[str, Sequence[Row]]
    held_out: frozenset[str]


@dataclass
class _Draft:
    train: list[Row] = field(default_factory=list)
    dev: list[Row] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class SplitSummary:
    """Size of one split: its name, rows, hours of audio and number of speakers."""

    name: str
    num_rows: int
    hours: float
    num_speakers: int


def summarize(name: str, rows: Sequence[Row]) -> SplitSummary:
    """Count the rows, hours and speakers of a split."""
    hours = sum(row["duration"] for row in rows) / 3600
    return SplitSummary(name, len(rows), hours, len({row["speaker"] for row in rows}))


def format_summaries(summaries: Sequence[SplitSummary]) -> str:
    """Lay the sizes of the splits out as a table of plain text."""
    lines = [f"{'split':<14} {'rows':>7} {'hours':>8} {'speakers':>9}"]
    lines += [
        f"{item.name:<14} {item.num_rows:>7} {item.hours:>8.3f} {item.num_speakers:>9}"
        for item in summaries
    ]
    return "\n".join(lines)


def read_manifest(path: Path) -> list[Row]:
    """Read a JSON-lines manifest as it is, without resolving paths.

    Raises:
        StepAudioError: If the file is missing or a line is not a JSON object.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StepAudioError(f"{path}: cannot read this manifest ({error})") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise StepAudioError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise StepAudioError(f"{path}, line {number}: expected a JSON object")
        rows.append(row)
    return rows


def write_text_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write `lines` to `path` so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as output:
        output.writelines(f"{line}\n" for line in lines)
    temporary.replace(path)


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, atomically."""
    write_text_atomically(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def _load(data_dir: Path, name: str) -> list[Row]:
    """Read one corpus in the schema of the splits: absolute paths, spoken text."""
    path = data_dir / "manifests" / f"{name}.jsonl"
    rows = []
    for number, raw in enumerate(read_manifest(path), 1):
        try:
            row: Row = {"audio_filepath": str((data_dir / raw["audio_filepath"]).absolute())}
            row["text"] = spoken_form(raw["text"]) if raw["text"] else ""
            row |= {key: raw[key] for key in _KEPT_FIELDS}
        except KeyError as error:
            raise StepAudioError(f"{path}, line {number}: field {error} is missing") from error
        if row["text"] is None:
            raise StepAudioError(f"{path}, line {number}: cannot spell out {raw['text']!r}")
        row |= {key: raw[key] for key in _EXTRA_FIELDS if key in raw}
        rows.append(row | {"_raw": raw})
    return rows


def _pick(items: Iterable[str], count: int, seed: int, purpose: str) -> list[str]:
    ranked = sorted(set(items), key=lambda item: seeded_unit(seed, purpose, item))
    return ranked[:count]


def _split_digits(rows: list[Row], draft: _Draft) -> list[Row]:
    """Hold one speaker out for the test, and the last takes of another one for dev."""
    test = [row for row in rows if row["speaker"] == TEST_DIGITS_SPEAKER]
    for row in rows:
        take = int(Path(row["audio_filepath"]).stem.rpartition("_")[2])
        if row["speaker"] == DEV_DIGITS_SPEAKER and take >= DEV_DIGITS_FIRST_TAKE:
            draft.dev.append(row)
        elif row["speaker"] != TEST_DIGITS_SPEAKER:
            draft.train.append(row)
    return test


def _split_single_speaker(rows: list[Row], seed: int, draft: _Draft) -> list[Row]:
    """Hold sentences of one speaker out: the last take of each goes to test or dev."""
    takes: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        takes[row["text"]].append(row)
    picked = _pick(takes, NUM_TEST_PROMPTS + NUM_DEV_PROMPTS, seed, "kathleen")
    last = {text: max(takes[text], key=lambda row: int(row["_raw"]["take"])) for text in picked}
    draft.held_out |= set(picked)
    draft.dev += [last[text] for text in picked[NUM_TEST_PROMPTS:]]
    draft.train += [row for row in rows if row["text"] not in last]
    return [last[text] for text in picked[:NUM_TEST_PROMPTS]]


def _split_learners(rows: list[Row], seed: int, draft: _Draft) -> list[Row]:
    """Hold speakers out, half of them children, and their sentences with them."""

    def pick_balanced(candidates: list[Row], count: int, purpose: str) -> set[str]:
        children = {row["speaker"] for row in candidates if row["age"] < ADULT_AGE}
        adults = {row["speaker"] for row in candidates if row["age"] >= ADULT_AGE}
        half = count // 2
        chosen_children = _pick(children, half, seed, f"{purpose} children")
        return {*chosen_children, *_pick(adults, count - half, seed, f"{purpose} adults")}

    upstream_test = [row for row in rows if row["_raw"].get("orig_split") == "test"]
    test_speakers = pick_balanced(upstream_test, NUM_TEST_LEARNERS, "test learners")
    rest = [row for row in rows if row["speaker"] not in test_speakers]
    dev_speakers = pick_balanced(rest, NUM_DEV_LEARNERS, "dev learners")
    test = [row for row in rows if row["speaker"] in test_speakers]
    dev = [row for row in rest if row["speaker"] in dev_speakers]
    held_out = {row["text"] for row in [*test, *dev]}
    draft.held_out |= held_out
    draft.dev += dev
    draft.train += [
        row for row in rest if row["speaker"] not in dev_speakers and row["text"] not in held_out
    ]
    return test


def split_corpora(data_dir: Path, *, seed: int = 0) -> Splits:
    """Split the real speech of a data folder.

    Digits are held out by speaker, the single US speaker by sentence, learners by speaker and
    sentence. Sentences held out from one corpus are taken out of the training rows of all.

    Args:
        data_dir: Folder with `manifests/{fsdd,kathleen,speechocean762}.jsonl`, whose
            `audio_filepath` is relative to the folder.
        seed: Chooses the held-out sentences and speakers.

    Raises:
        StepAudioError: If a manifest is missing, incomplete or has text that cannot be spoken.
    """
    draft = _Draft()
    test_digits = _split_digits(_load(data_dir, "fsdd"), draft)
    test_kathleen = _split_single_speaker(_load(data_dir, "kathleen"), seed, draft)
    test_learners = _split_learners(_load(data_dir, "speechocean762"), seed, draft)
    rows = {
        "train_real": [row for row in draft.train if row["text"] not in draft.held_out],
        "dev": draft.dev,
        "test_digits": test_digits,
        "test_kathleen": test_kathleen,
        "test_learners": test_learners,
    }
    return Splits(
        rows={name: [_public(row) for row in split] for name, split in rows.items()},
        held_out=frozenset(draft.held_out),
    )


def _public(row: Row) -> Row:
    return {key: value for key, value in row.items() if not key.startswith("_")}


def noise_rows(data_dir: Path) -> list[Row]:
    """Return the recordings of noise (environmental clips and ambience), absolute paths."""
    return _rows_where(data_dir, lambda row: row.get("kind") != "rir")


def rir_rows(data_dir: Path) -> list[Row]:
    """Return the room impulse responses, absolute paths."""
    return _rows_where(data_dir, lambda row: row.get("kind") == "rir")


def _rows_where(data_dir: Path, keep: Callable[[Row], bool]) -> list[Row]:
    rows = [*_load(data_dir, "esc10_noise"), *_load(data_dir, "rirs")]
    return [_public(row) for row in rows if keep(row)]
