"""Preference datasets: what is written can be read, whoever writes at once or is killed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.errors import OutputError, StepAudioError
from stepaudio.training.preference_writing import append_preference, store_audio
from stepaudio.training.preferences import (
    PREFERENCE_FILE,
    PreferencePair,
    PreferencePrompt,
    PreferenceRow,
    PreferenceTake,
    TakeSentence,
    load_preference_pairs,
    read_preferences,
)

TIME = "2026-11-26T15:04:05+00:00"
SENTENCES = (TakeSentence("it is", (1, 2)), TakeSentence("ten", (3,)))
TAKE = {"audio_filepath": "audio/a.flac", "duration": 1.5}
GOOD = {
    "format_version": 1, "text": "hi", "a": TAKE, "b": TAKE | {"audio_filepath": "audio/b.flac"},
    "winner": "a", "model": "nano", "time": TIME,
}  # fmt: skip


def said(**values):
    """A take whose only sentence has these fields."""
    return TAKE | {"sentences": [{"text": "x", **values}]}


def row(folder: Path, *, winner="a", text="It is ten.", first=b"1", second=b"2") -> PreferenceRow:
    """A decision whose takes are in the dataset."""
    takes = [
        PreferenceTake(store_audio(folder, data, ".flac"), 1.0, seed, SENTENCES)
        for seed, data in enumerate([first, second])
    ]
    return PreferenceRow(PreferencePrompt(text), takes[0], takes[1], winner, "nano", TIME)


def absolute(folder: Path, written: PreferenceRow) -> PreferenceRow:
    """The row as it is read."""

    def moved(take: PreferenceTake) -> PreferenceTake:
        return replace(take, audio_filepath=str(folder / take.audio_filepath))

    prompt = written.prompt
    if prompt.voice_filepath:
        prompt = replace(prompt, voice_filepath=str(folder / prompt.voice_filepath))
    return replace(written, prompt=prompt, a=moved(written.a), b=moved(written.b))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
SPOKEN = TEXTS.filter(str.strip)
TAKES = st.builds(
    PreferenceTake,
    audio_filepath=st.text("abcé ", min_size=1, max_size=9).map("audio/{}.flac".format),
    duration=st.floats(0, 1e6),
    seed=st.none() | st.integers(0, 2**63),
    sentences=st.none()
    | st.lists(
        st.builds(TakeSentence, TEXTS, st.lists(st.integers(0, 6560), max_size=5).map(tuple)),
        max_size=3,
    ).map(tuple),
)
PROMPTS = st.builds(
    PreferencePrompt,
    text=SPOKEN,
    voice=TEXTS,
    voice_filepath=st.sampled_from(["", "audio/voice.wav"]),
    instruction=TEXTS,
    speed=st.floats(0.25, 4),
)
ROWS = st.builds(
    PreferenceRow,
    prompt=PROMPTS,
    a=TAKES,
    b=TAKES,
    winner=st.sampled_from("ab"),
    model=TEXTS.map(lambda s: s + "m"),
    time=st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat()),
).filter(lambda r: len(r.takes) == 2)


@given(rows=st.lists(ROWS, max_size=4))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows) -> None:
    folder = tmp_path_factory.mktemp("p") / "new" / "folder"
    for one in rows:
        append_preference(folder, one)
    if not rows:
        return
    assert read_preferences(folder) == [absolute(folder, one) for one in rows]
    assert read_preferences(folder / PREFERENCE_FILE) == read_preferences(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{oops", "not JSON"),
        (b"\xff\xfe{", "not UTF-8"),
        ("[1]", "not a JSON object"),
        ({**GOOD, "format_version": 2}, "'format_version' is 2, this version of stepaudio reads 1"),
        ({**GOOD, "format_version": None}, "'format_version' is None"),
        ({**GOOD, "text": None}, "field 'text' is missing"),
        ({**GOOD, "text": "  "}, "field 'text' is empty"),
        ({**GOOD, "text": 3}, "field 'text' must be a string, got 3"),
        ({**GOOD, "winner": "c"}, "field 'winner' must be 'a' or 'b', got 'c'"),
        ({**GOOD, "wimmer": "a"}, "unknown field 'wimmer'"),
        ({**GOOD, "speed": 0}, "field 'speed' must be more than 0"),
        ({**GOOD, "speed": True}, "field 'speed' must be a number"),
        ({**GOOD, "time": "yesterday"}, "field 'time' must be ISO 8601"),
        ({**GOOD, "time": "2026-11-26T15:04:05"}, "field 'time' must be ISO 8601 with an offset"),
        ({**GOOD, "a": "x.wav"}, "field 'a' must be an object"),
        ({**GOOD, "b": TAKE}, "both takes are"),
        ({**GOOD, "b": {"duration": 1}}, "take 'b': field 'audio_filepath' is missing"),
        ({**GOOD, "a": TAKE | {"audio_filepath": ""}}, "take 'a': field 'audio_filepath' is empty"),
        ({**GOOD, "a": TAKE | {"duration": -1}}, "take 'a': field 'duration' must be a number"),
        ({**GOOD, "a": TAKE | {"seed": 1.5}}, "take 'a': field 'seed' must be whole"),
        ({**GOOD, "a": TAKE | {"sentences": "x"}}, "take 'a': field 'sentences' must be a list"),
        ({**GOOD, "a": TAKE | {"sentences": ["x"]}}, "field 'sentences' must be objects"),
        ({**GOOD, "a": TAKE | {"sentences": [{"text": "x"}]}}, "field 'codes' is missing"),
        ({**GOOD, "a": said(codes="12")}, "take 'a': field 'codes' must be a list"),
        ({**GOOD, "a": said(codes=[-1])}, "take 'a': field 'codes' must be whole"),
        ({**GOOD, "a": said(codes=[1], pause=2)}, "take 'a': unknown field 'pause'"),
        ({**GOOD, "a": TAKE | {"loudness": 1}}, "take 'a': unknown field 'loudness'"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, values, message: str) -> None:
    bad = json.dumps(values) if isinstance(values, dict) else values
    bad = bad if isinstance(bad, bytes) else bad.encode()
    path = tmp_path / PREFERENCE_FILE
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + bad + b"\n")
    with pytest.raises(StepAudioError) as error:
        read_preferences(tmp_path)
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StepAudioError, match=r"none\.jsonl: cannot be read"):
        read_preferences(tmp_path / "none.jsonl")


def test_nothing_invalid_is_written(tmp_path: Path) -> None:
    good = row(tmp_path)
    for bad in (
        replace(good, time="now"),
        replace(good, winner="both"),
        replace(good, b=good.a),
        replace(good, prompt=PreferencePrompt("")),
        replace(good, prompt=PreferencePrompt("hi", speed=float("nan"))),
        replace(good, a=replace(good.a, sentences=(TakeSentence("x", (-1,)),))),
    ):
        with pytest.raises(ValueError, match=r"field|both takes|JSON compliant"):
            append_preference(tmp_path, bad)
    assert not (tmp_path / PREFERENCE_FILE).exists()


def test_pairs_have_the_chosen_take_first_and_a_correction_counts(tmp_path: Path) -> None:
    right, other = row(tmp_path), row(tmp_path, text="Other.", winner="b")
    wrong = replace(right, winner="b")
    for one in (wrong, other, right):
        append_preference(tmp_path, one)
    right, other = absolute(tmp_path, right), absolute(tmp_path, other)
    assert load_preference_pairs(tmp_path) == [
        PreferencePair(other.prompt, other.b, other.a),
        PreferencePair(right.prompt, right.a, right.b),
    ]


def test_a_correction_may_hear_the_takes_in_the_other_order(tmp_path: Path) -> None:
    first = row(tmp_path)
    append_preference(tmp_path, first)
    append_preference(tmp_path, replace(first, a=first.b, b=first.a))
    (pair,) = load_preference_pairs(tmp_path)
    assert pair.chosen.audio_filepath == str(tmp_path / first.b.audio_filepath)


def test_pairs_without_codes_can_be_left_out(tmp_path: Path) -> None:
    known, unknown = row(tmp_path), row(tmp_path, text="From a server.")
    append_preference(tmp_path, known)
    append_preference(tmp_path, replace(unknown, a=replace(unknown.a, sentences=None, seed=None)))
    assert len(load_preference_pairs(tmp_path)) == 2
    (pair,) = load_preference_pairs(tmp_path, with_codes=True)
    assert pair.prompt == known.prompt
    assert pair.chosen.codes == (1, 2, 3)


@pytest.mark.parametrize("which", ["take", "voice"])
def test_missing_audio_is_named(tmp_path: Path, which: str) -> None:
    written = row(tmp_path)
    voice = store_audio(tmp_path, b"voice", ".wav")
    written = replace(written, prompt=replace(written.prompt, voice_filepath=voice))
    append_preference(tmp_path, written)
    assert len(load_preference_pairs(tmp_path)) == 1
    gone = tmp_path / (written.b.audio_filepath if which == "take" else voice)
    gone.unlink()
    with pytest.raises(StepAudioError, match=f"{gone.name}: missing, but .*{PREFERENCE_FILE}"):
        load_preference_pairs(tmp_path)


def test_the_same_sound_is_stored_once(tmp_path: Path) -> None:
    assert store_audio(tmp_path, b"x", ".flac") == store_audio(tmp_path, b"x", ".flac")
    assert store_audio(tmp_path, b"y", ".flac") != store_audio(tmp_path, b"x", ".flac")
    assert len(list((tmp_path / "audio").iterdir())) == 2


@given(cut=st.integers(1, 400))
def test_a_line_that_was_cut_off_is_removed_by_the_next(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("p")
    first, second, third = (row(folder, text=text) for text in ("one", "two " * 40_000, "three"))
    append_preference(folder, first)
    path = append_preference(folder, second)
    os.truncate(path, path.stat().st_size - cut)  # a writer was killed
    append_preference(folder, third)
    # Without its line end alone the second row is still whole.
    kept = [first, second, third] if cut == 1 else [first, third]
    assert read_preferences(folder) == [absolute(folder, one) for one in kept]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = append_preference(tmp_path, row(tmp_path))
    before = path.read_bytes()
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.unit.training.test_preferences import row\n"
        "from stepaudio.training.preference_writing import append_preference\n"
        "folder = Path(sys.argv[1]); new = row(folder, text='long ' * 1000)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"limit = {len(before) + 100}, resource.RLIM_INFINITY\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, limit)\n"
        "try: append_preference(folder, new)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout.startswith(f"OutputError {path}: cannot be written")
    assert path.read_bytes() == before


def test_programs_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.unit.training.test_preferences import row\n"
        "from stepaudio.training.preference_writing import append_preference\n"
        "folder, name = Path(sys.argv[1]), sys.argv[2]\n"
        "for i in range(30): append_preference(folder, row(folder, text=f'{name} {i} ' * 2000))\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path, name], cwd=Path(__file__).parents[3]
        )
        for name in "xyz"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    texts = [one.prompt.text.split()[:2] for one in read_preferences(tmp_path)]
    assert sorted(texts) == sorted([name, str(i)] for name in "xyz" for i in range(30))
    for name in "xyz":
        assert [int(i) for who, i in texts if who == name] == list(range(30))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/data: cannot be made"):
        append_preference(tmp_path / "file" / "data", row(tmp_path))


def test_the_schema_lives_in_training_data() -> None:
    from stepaudio.training import data

    assert data.load_preference_pairs is load_preference_pairs
    assert data.PreferenceRow is PreferenceRow
