import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.errors import StepAudioError
from stepaudio_recipes.synth import (
    ESPEAK_ACCENTS,
    ESPEAK_VARIANTS,
    HELD_OUT_ACCENT,
    HELD_OUT_VARIANTS,
    HELD_OUT_VOICES,
    SynthesisError,
    SynthPlan,
    Voice,
    VoicePool,
    installed_voices,
    synthesize,
    synthesize_shards,
)
from stepaudio_recipes.texts import Sentence
from stepaudio_recipes.utterances import TextSampler

ESPEAK = VoicePool(("espeak-ng",), ("f2", "m3"))
TEXTS = TextSampler(
    sentences=tuple(Sentence(f"i saw a {thing}", "sgd") for thing in ("house", "tree", "dog")),
    transcripts=(),
    words=("paper", "river"),
    held_out=frozenset({"paper", "river paper"}),
)
PLAN = SynthPlan(seed=7, voices=ESPEAK, texts=TEXTS, shard_s=5.0)


def _ignore(done: int, total: int) -> None:
    del done, total


def _make(folder: Path, num_shards: int, *, plan: SynthPlan = PLAN, jobs: int = 1) -> list[dict]:
    return synthesize_shards(plan, folder, num_shards, jobs=jobs, progress=_ignore).rows


def _audio(rows: Iterable[dict]) -> list[bytes]:
    return [
        np.fromfile(row["audio_filepath"], "<i2", row["num_samples"], offset=2 * row["offset"])
        .tobytes()
        for row in rows
    ]  # fmt: skip


def _placeless(rows: Iterable[dict]) -> list[dict]:
    return [row | {"audio_filepath": Path(row["audio_filepath"]).name} for row in rows]


def test_rows_point_at_whole_utterances(tmp_path: Path) -> None:
    rows = _make(tmp_path, 2)
    by_file: dict[str, list[dict]] = {}
    for row in rows:
        by_file.setdefault(row["audio_filepath"], []).append(row)
    assert len(by_file) == 2
    for path, file_rows in by_file.items():
        ends = [row["offset"] + row["num_samples"] for row in file_rows]
        assert [row["offset"] for row in file_rows] == [0, *ends[:-1]]
        assert Path(path).stat().st_size == 2 * ends[-1]
        assert ends[-1] >= 5.0 * SAMPLE_RATE
        for row in file_rows:
            assert row["duration"] == pytest.approx(row["num_samples"] / SAMPLE_RATE, abs=1e-4)
    for samples in _audio(rows):
        assert np.abs(np.frombuffer(samples, "<i2")).max() > 3000


def test_jobs_do_not_change_the_result(tmp_path: Path) -> None:
    one, two = _make(tmp_path / "one", 3), _make(tmp_path / "two", 3, jobs=2)
    assert _placeless(one) == _placeless(two)
    assert _audio(one) == _audio(two)


def test_more_hours_keep_the_finished_shards(tmp_path: Path) -> None:
    first = _make(tmp_path, 1)
    path = Path(first[0]["audio_filepath"])
    written = path.stat().st_mtime_ns
    grown = _make(tmp_path, 2)
    assert path.stat().st_mtime_ns == written
    assert grown[: len(first)] == first
    assert len(grown) > len(first)


def test_interrupted_shard_is_made_again(tmp_path: Path) -> None:
    rows = _make(tmp_path, 1)
    wanted, path = _audio(rows), Path(rows[0]["audio_filepath"])
    path.with_suffix(".jsonl").unlink()
    path.write_bytes(b"torn")
    assert _make(tmp_path, 1) == rows
    assert _audio(rows) == wanted


def test_another_plan_never_reuses_shards(tmp_path: Path) -> None:
    rows = _make(tmp_path, 1)
    other = _make(tmp_path, 1, plan=SynthPlan(8, ESPEAK, TEXTS, shard_s=5.0))
    assert rows[0]["audio_filepath"] != other[0]["audio_filepath"]


def test_failed_texts_are_counted_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes(voice: Voice, text: str, rng: random.Random) -> np.ndarray:
        if "house" in text:
            raise SynthesisError("no")
        return synthesize(voice, text, rng)

    monkeypatch.setattr("stepaudio_recipes.synth.synthesize", sometimes)
    result = synthesize_shards(PLAN, tmp_path, 2, jobs=1, progress=_ignore)
    assert result.num_failed > 0
    assert not any("house" in row["text"] for row in result.rows)


def test_held_out_texts_are_never_drawn() -> None:
    drawn = {TEXTS.draw(random.Random(index), index).text for index in range(2000)}
    assert not drawn & TEXTS.held_out
    assert {"river", "i saw a dog", "seven"} <= drawn


def test_held_out_voices_share_nothing_with_the_training_voices() -> None:
    assert HELD_OUT_ACCENT not in ESPEAK_ACCENTS
    assert not set(HELD_OUT_VARIANTS) & set(ESPEAK_VARIANTS)
    assert {name.split("+")[1] for name in HELD_OUT_VOICES} == set(HELD_OUT_VARIANTS)
    pool = VoicePool(("espeak-ng", "flite", "text2wave"), ESPEAK_VARIANTS)
    drawn = {pool.draw(random.Random(seed)).name for seed in range(3000)}
    assert not drawn & set(HELD_OUT_VOICES)


def test_espeak_is_installed_with_most_of_our_variants() -> None:
    voices = installed_voices()
    assert "espeak-ng" in voices.programs
    assert len(voices.espeak_variants) > 40


def _installed_voices() -> list[Voice]:
    names = {"flite": "slt", "text2wave": "voice_ked_diphone"}
    programs = [program for program in installed_voices().programs if program in names]
    return [Voice("espeak-ng", "en-gb+f2"), *(Voice(name, names[name]) for name in programs)]


@pytest.mark.parametrize("voice", _installed_voices(), ids=lambda voice: voice.program)
def test_synthesizers_give_padded_16_khz_speech(voice: Voice) -> None:
    samples = synthesize(voice, "good morning to all of you", random.Random(1))
    assert samples.dtype == np.int16
    assert 1.0 < len(samples) / SAMPLE_RATE < 4.0
    loud = np.flatnonzero(np.abs(samples) > 200)
    assert loud[0] >= 0.04 * SAMPLE_RATE
    assert len(samples) - loud[-1] >= 0.04 * SAMPLE_RATE


def test_festival_without_our_voices_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, output in (("festival", "(kal_diphone)"), ("text2wave", "")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{output}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "text2wave" not in installed_voices().programs
    (tmp_path / "festival").write_text(
        "#!/bin/sh\necho '(ked_diphone kal_diphone cmu_us_slt_arctic_hts)'\n"
    )
    assert "text2wave" in installed_voices().programs


def test_the_natural_voices_are_those_of_flite() -> None:
    pool = VoicePool(("espeak-ng", "flite"), ESPEAK_VARIANTS).natural()
    drawn = Counter(pool.draw(random.Random(seed)).speaker for seed in range(2000))
    assert set(drawn) == {"flite/slt", "flite/rms", "flite/awb", "flite/kal16"}
    assert 0.5 < drawn["flite/slt"] / 2000 < 0.6
    with pytest.raises(StepAudioError, match="install the package flite"):
        VoicePool(("espeak-ng",), ESPEAK_VARIANTS).natural()


def test_unknown_voice_is_refused() -> None:
    with pytest.raises(SynthesisError, match="espeak-ng"):
        synthesize(Voice("espeak-ng", "xx-nowhere"), "hello", random.Random(1))


def test_unspeakable_text_is_refused() -> None:
    with pytest.raises(SynthesisError):
        synthesize(Voice("espeak-ng", "en-us"), " ", random.Random(1))


def test_shard_manifest_is_json_lines(tmp_path: Path) -> None:
    rows = _make(tmp_path, 1)
    path = Path(rows[0]["audio_filepath"]).with_suffix(".jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows


def test_flac_of_the_test_set_is_readable(tmp_path: Path) -> None:
    from stepaudio_recipes.synth import synthesize_test_set
    from stepaudio_recipes.utterances import Utterance

    sentences = [Utterance(f"this is sentence {word}", "sgd", "x") for word in ("a", "b", "c")]
    rows = synthesize_test_set(sentences, tmp_path, seed=0)
    assert [row["speaker"].split("/")[1] for row in rows] == list(HELD_OUT_VOICES)
    for row in rows:
        info = soundfile.info(row["audio_filepath"])
        assert (info.samplerate, info.channels) == (SAMPLE_RATE, 1)
        assert info.frames / SAMPLE_RATE == pytest.approx(row["duration"], abs=1e-3)
