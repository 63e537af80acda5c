"""Data of the token2wav recipe: cached features, twins of packed recordings, cuts and prompts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stepaudio.audio.io import load_audio
from stepaudio.audio.prompt_features import VoiceMel, kaldi_fbank
from stepaudio.errors import ConfigError
from stepaudio.text.manifest import read_manifest
from stepaudio_recipes.flow_data import FlowData, FlowDataConfig, TwinCodes
from stepaudio_recipes.speech_data import SourceConfig
from stepaudio_recipes.trainer import Workers
from stepaudio_recipes.voice_features import FeatureCache

CONFIG = FlowDataConfig(
    folder="",
    sources=(SourceConfig(manifest="manifest.jsonl", weight=1.0),),
    dev="manifest.jsonl",
    dev_source="kathleen",
    batch_s=12.0,
    longest_s=2.0,
    prompt_batches=1.0,
)


class CountingCodes:
    """The codes of every recording count up from a number of its own, so that cuts can be seen."""

    def load(self, row):
        size = int(np.ceil(row.duration * 25))
        first = 1000 * (
            1 + sorted(("us_female_1", "us_female_2", "learner_adult")).index(stem(row))
        )
        return np.arange(first, first + size).astype(np.int16)


def stem(row):
    return Path(row.audio_filepath).stem


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    """Three recordings, two of them of the same speaker."""
    folder = tmp_path_factory.mktemp("flow_data")
    shutil.copytree(examples, folder, dirs_exist_ok=True)
    lines = (examples / "manifest.jsonl").read_text().splitlines()
    kept = ("us_female_1", "us_female_2", "learner_adult")
    chosen = [line for line in lines if Path(json.loads(line)["audio_filepath"]).stem in kept]
    (folder / "manifest.jsonl").write_text("\n".join(chosen) + "\n")
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return read_manifest(folder / "manifest.jsonl")


@pytest.fixture(scope="module")
def cache(folder, rows):
    cache = FeatureCache(folder / "features", VoiceMel())
    cache.prepare(rows)
    return cache


def data_of(folder, cache, **changes):
    config = replace(CONFIG, folder=str(folder), **changes)
    return FlowData(config, CountingCodes(), cache, tokens_per_s=25, frames_per_token=2, seed=3)


def test_cached_mel_is_that_of_the_recording(cache, rows):
    wav = load_audio(rows[1].audio_filepath, sample_rate=24_000).samples
    expected = VoiceMel()(wav)[:, 20:50]
    assert torch.allclose(cache.mel(rows[1], 20, 50), expected, atol=0.01)
    assert cache.mel(rows[1], 0, 10**6).shape[1] == len(wav) // 480


def test_filter_banks_of_a_piece_are_those_of_the_piece_alone(cache, rows):
    wav = load_audio(rows[0].audio_filepath).samples
    piece = wav[50 * 160 : 150 * 160 + 240]  # a frame is 25 ms, 10 ms apart
    expected = kaldi_fbank(piece)
    ours = cache.fbank(rows[0], 50, 150)
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=0.03)


def test_features_are_computed_once(folder, cache, rows, monkeypatch):
    again = FeatureCache(folder / "features", VoiceMel())
    monkeypatch.setattr(again, "_features", None)  # nothing is left to compute
    again.prepare(rows)
    assert torch.equal(again.mel(rows[2], 0, 9), cache.mel(rows[2], 0, 9))


def test_another_mel_has_other_features(folder, rows):
    other = FeatureCache(folder / "features", VoiceMel(num_mels=40))
    other.prepare(rows)
    assert other.mel(rows[0], 0, 9).shape == (40, 9)


def test_prompts_are_put_in_front_or_taken_from_the_beginning(folder, cache):
    for share, own in ((1.0, False), (0.0, True)):
        data = data_of(folder, cache, other_prompts=share)
        for index in range(6):
            batch = data.build(data.dev, index)
            for tokens, size, lens in zip(
                batch.tokens, batch.token_lens.tolist(), batch.prompt_lens.tolist(), strict=True
            ):
                assert 0 < lens < size
                # Codes of one recording count up; another one starts somewhere else.
                steps = tokens[1:size] - tokens[: size - 1]
                assert bool((steps[: lens - 1] == 1).all())
                assert bool((steps[lens:] == 1).all())
                assert not own or int(steps[lens - 1]) == 1


def test_mel_lies_under_its_tokens(folder, cache, rows):
    data = data_of(folder, cache, prompt_batches=0.0)
    batch = data.build(rows, 0)
    names = sorted(("us_female_1", "us_female_2", "learner_adult"))
    for i, row in enumerate(rows):
        assert int(batch.prompt_lens[i]) == 0 and int(batch.token_lens[i]) == 50
        first = int(batch.tokens[i, 0]) - 1000 * (1 + names.index(stem(row)))
        assert torch.equal(batch.mel[i, :, :20], cache.mel(row, 2 * first, 2 * first + 20))
    assert batch.num_tokens == 150 and batch.mel.shape == (3, 80, 100)
    assert batch.speakers[0] == batch.speakers[1] != batch.speakers[2]


def test_the_batch_of_a_step_is_always_the_same(folder, cache):
    data = data_of(folder, cache)
    stream = data.batches(0, Workers())
    first = [next(stream) for _ in range(3)]
    step, batch = next(data.batches(2, Workers()))
    assert step == 2
    assert torch.equal(batch.tokens, first[2][1].tokens)
    assert torch.equal(batch.voices, first[2][1].voices)
    # Two processes share the batches that one would have.
    step, batch = next(data.batches(1, Workers(0, 2)))
    assert step == 1 and torch.equal(batch.tokens, first[2][1].tokens)


def test_a_source_without_recordings_is_an_error(folder, cache):
    sources = (SourceConfig(manifest="manifest.jsonl", weight=1.0, source="nobody"),)
    with pytest.raises(ConfigError, match=r"manifest\.jsonl: no recording of nobody"):
        data_of(folder, cache, sources=sources)


def test_twins(folder, rows, tmp_path):
    class Codes:
        def load(self, row):
            return np.array([row.offset or 0])

    packed = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for number, row in enumerate(packed):
        row |= {"audio_filepath": "shard.pcm", "offset": 100 * number + 7, "num_samples": 100}
    lines = [json.dumps(row) + "\n" for row in packed]
    shutil.copy(folder / "manifest.jsonl", tmp_path)
    (tmp_path / "manifest.packed.jsonl").write_text("".join(lines))
    originals = read_manifest(tmp_path / "manifest.jsonl")
    codes = TwinCodes(Codes(), tmp_path, ["manifest.jsonl"])
    assert [int(codes.load(row)[0]) for row in originals] == [7, 107, 207]
    assert int(codes.load(rows[2])[0]) == 0  # of another folder: it has no twin
    (tmp_path / "manifest.packed.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(ConfigError, match="is no copy of manifest"):
        TwinCodes(Codes(), tmp_path, ["manifest.jsonl"])
