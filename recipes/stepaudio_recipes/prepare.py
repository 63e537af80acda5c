"""Data preparation for the nano model: splits of the corpora, synthetic speech, noise, text."""

import gzip
import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from stepaudio_recipes.corpora import (
    Row,
    Splits,
    SplitSummary,
    format_summaries,
    noise_rows,
    read_manifest,
    rir_rows,
    split_corpora,
    summarize,
    write_manifest,
)
from stepaudio_recipes.synth import (
    SHARD_S,
    SynthPlan,
    installed_voices,
    synthesize_shards,
    synthesize_test_set,
)
from stepaudio_recipes.texts import (
    DICTIONARY,
    PROSE_SOURCES,
    Sentence,
    TextPool,
    read_text_pool,
    speakable,
)
from stepaudio_recipes.utterances import TextSampler, Utterance

_log = logging.getLogger(__name__)

NUM_TEST_SENTENCES = 60
_FIRST_NATURAL_SHARD = 10_000  # beyond any shard of the other plan: other draws of the texts
_MIN_TEST_WORDS = 4


# Compressed audio that every pass of the training reads; decoded once.
PACKED_SPLITS = ("train_real", "dev")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Settings of `stepaudio-train run prepare`.

    Attributes:
        data: Data folder with `manifests/` and `text/`.
        output_dir: Folder to fill.
        hours: Hours of synthetic training speech; asking for more later adds shards.
        natural_hours: Hours of further synthetic speech in the few voices that were made from
            recordings of people.
        jobs: Synthesizer processes at a time.
        seed: Seed of every choice.
    """

    data: str
    output_dir: str = ".data/nano"
    hours: float = 12.0
    natural_hours: float = 0.0
    jobs: int = 2
    seed: int = 0


Config = PrepareConfig


@dataclass(frozen=True)
class PrepareOptions:
    """Knobs of the data preparation.

    Attributes:
        hours: Hours of synthetic training speech; asking for more later adds shards.
        natural_hours: Hours in the voices of `VoicePool.natural`, a manifest of their own.
        jobs: Synthesizer processes at a time.
        seed: Seed of every choice; the same seed gives the same files.
        shard_s: Seconds of audio in a synthetic shard.
    """

    hours: float = 6.0
    natural_hours: float = 0.0
    jobs: int = 2
    seed: int = 0
    shard_s: float = SHARD_S

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.hours, self.natural_hours) < 0 or self.jobs < 1 or self.shard_s <= 0:
            raise ValueError(f"need hours >= 0, jobs >= 1 and shard_s > 0, not {self}")


def prepare(
    data_dir: Path,
    out_dir: Path,
    *,
    options: PrepareOptions,
    progress: Callable[[int, int], None],
) -> list[SplitSummary]:
    """Write the manifests, synthetic speech and text files that pretraining reads.

    Under `out_dir` come `manifests/{train_real,dev,test_digits,test_kathleen,test_learners,
    test_espeak,synth,noise,rirs}.jsonl`, `synth/`, `test_espeak/`, `texts.txt.gz` and
    `texts_raw.txt.gz`. Running it again resumes: finished shards of the same plan are kept.

    Args:
        data_dir: Folder with `manifests/` and `text/` in the format of the data bundle.
        out_dir: Folder to fill; made if it is not there.
        options: Hours, jobs and seed.
        progress: Called with the synthetic shards that are ready and their total.

    Returns:
        The size of every split.

    Raises:
        StepAudioError: If data are missing or unreadable, or espeak-ng is not installed.
    """
    voices = installed_voices()
    manifests = out_dir / "manifests"
    summaries: list[SplitSummary] = []

    def write(name: str, rows: Iterable[Row]) -> None:
        rows = list(rows)
        write_manifest(manifests / f"{name}.jsonl", rows)
        summaries.append(summarize(name, rows))

    splits = split_corpora(data_dir, seed=options.seed)
    for name, rows in splits.rows.items():
        write(name, rows)
    write("noise", noise_rows(data_dir))
    write("rirs", rir_rows(data_dir))

    pool = read_text_pool(data_dir / "text")
    transcripts = _transcripts(splits)
    spoken = [item for item in speakable(pool, options.seed) if item.text not in splits.held_out]
    test_sentences = _test_sentences(spoken, {item.text for item in transcripts})
    held_out = splits.held_out | {item.text for item in test_sentences}
    _write_texts(out_dir, pool.without(held_out))
    if (dictionary := data_dir / "text" / DICTIONARY).exists():
        shutil.copyfile(dictionary, out_dir / DICTIONARY)
    test = [Utterance.of(item) for item in test_sentences]
    write("test_espeak", synthesize_test_set(test, out_dir / "test_espeak", seed=options.seed))

    sampler = TextSampler(
        sentences=tuple(item for item in spoken if item.text not in held_out),
        transcripts=transcripts,
        words=pool.words,
        held_out=frozenset(held_out),
    )
    plans = {"synth": (SynthPlan(options.seed, voices, sampler, options.shard_s), options.hours)}
    if options.natural_hours:
        plan = SynthPlan(
            options.seed, voices.natural(), sampler, options.shard_s, _FIRST_NATURAL_SHARD
        )
        plans["synth_natural"] = (plan, options.natural_hours)
    for name, (plan, hours) in plans.items():
        num_shards = math.ceil(hours * 3600 / options.shard_s)
        folder = out_dir / "synth"
        result = synthesize_shards(plan, folder, num_shards, jobs=options.jobs, progress=progress)
        write(name, result.rows)
    return summaries


def pack_splits(out_dir: Path) -> None:
    """Decode the splits that training reads over and over into one raw file each.

    Writes `manifests/<split>.packed.jsonl`, whose rows point into `packed/<split>-<digest>.pcm`.
    A split that is packed already is kept.

    Raises:
        AudioLoadError: If a recording cannot be decoded.
    """
    # Decoding needs torch, which `stepaudio-train list` must not wait for.
    from stepaudio.text.manifest import read_manifest as read_rows
    from stepaudio.training.data import pack_rows

    for name in PACKED_SPLITS:
        manifest = out_dir / "manifests" / f"{name}.jsonl"
        rows = read_manifest(manifest)
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]
        shard = (out_dir / "packed" / f"{name}-{digest}.pcm").absolute()
        target = manifest.with_name(f"{name}.packed.jsonl")
        if shard.exists() and target.exists() and shard.name in target.read_text("utf-8"):
            continue
        places = (
            {
                "audio_filepath": packed.audio_filepath,
                "duration": packed.duration,
                "offset": packed.offset,
                "num_samples": packed.num_samples,
            }
            for packed in pack_rows(read_rows(manifest), shard)
        )
        write_manifest(target, (row | place for row, place in zip(rows, places, strict=True)))


def main(config: PrepareConfig) -> list[SplitSummary]:
    """Prepare the data, with a progress bar, and log the size of every split."""
    options = PrepareOptions(
        hours=config.hours,
        natural_hours=config.natural_hours,
        jobs=config.jobs,
        seed=config.seed,
    )
    out_dir = Path(config.output_dir)
    with tqdm(desc="synthetic speech", unit="shard", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summaries = prepare(Path(config.data), out_dir, options=options, progress=show)
    pack_splits(out_dir)
    _log.info("%s\n%s", out_dir, format_summaries(summaries))
    return summaries


def _test_sentences(spoken: Iterable[Sentence], trained: AbstractSet[str]) -> list[Sentence]:
    """Take prose; task dialogues follow templates that training sentences follow too."""
    prose = (
        item
        for item in spoken
        if item.source in PROSE_SOURCES
        and len(item.text.split()) >= _MIN_TEST_WORDS
        and item.text not in trained
    )
    return list(islice(prose, NUM_TEST_SENTENCES))


def _transcripts(splits: Splits) -> tuple[Utterance, ...]:
    unique = {
        row["text"]: Utterance(row["text"], row["source"], row["license"])
        for row in splits.rows["train_real"]
    }
    return tuple(unique.values())


def _write_texts(out_dir: Path, pool: TextPool) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("texts.txt.gz", (item.text for item in pool.sentences)),
        ("texts_raw.txt.gz", (turn.raw for turn in pool.turns)),
    ):
        temporary = out_dir / f".{name}"
        # A fixed time in the header keeps the bytes the same from run to run.
        with temporary.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
            packed.writelines(f"{line}\n".encode() for line in lines)
        temporary.replace(out_dir / name)
