"""The vocoder recipe, whole, on a few recordings; its data and its result."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.vocoder_checkpoint import load_vocoder, read_vocoder_config
from stepaudio.text.manifest import ManifestRow
from stepaudio_recipes import vocoder
from stepaudio_recipes.config import load_config
from stepaudio_recipes.trainer import Workers
from stepaudio_recipes.vocoder_data import VoiceData, choose_rows, prepare_source

pytest.importorskip("pyworld")
CONFIG = Path(vocoder.__file__).parent / "configs" / "vocoder" / "tiny.yaml"
NANO = CONFIG.with_name("nano.yaml")


@pytest.fixture(scope="module")
def config(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocoder")
    paths = [
        f"data.folder={examples}",
        f"data.cache_dir={folder / 'sound'}",
        f"output_dir={folder / 'run'}",
    ]
    return load_config(vocoder.Config, CONFIG, paths)


@pytest.fixture(scope="module")
def finished(config):
    return vocoder.main(config)


@pytest.fixture(scope="module")
def data(config):
    return VoiceData(config.data, config.mel, config.model, config.seed)


def test_losses_fall(finished):
    assert len(finished) == 4
    assert 0 < finished[-1] < finished[0] < 50


def test_a_finished_run_has_nothing_left_to_do(config, finished):
    assert vocoder.main(config) == []


def test_a_killed_run_goes_on_with_the_same_losses(config, finished, tmp_path):
    short = dataclasses.replace(
        config,
        output_dir=str(tmp_path / "run"),
        loop=dataclasses.replace(config.loop, steps=2, hold_fraction=1.0),
    )
    first = vocoder.main(short)
    longer = dataclasses.replace(short, loop=dataclasses.replace(short.loop, steps=4))
    second = vocoder.main(longer)
    whole = vocoder.main(dataclasses.replace(longer, output_dir=str(tmp_path / "whole")))
    assert first + second == pytest.approx(whole, rel=1e-4)


def test_the_vocoder_loads_and_streams(config, finished):
    folder = Path(config.output_dir)
    values = json.loads((folder / vocoder.CONFIG_FILE).read_text())
    assert read_vocoder_config(values) == config.model
    loaded = load_vocoder(folder / vocoder.WEIGHTS_FILE, read_vocoder_config(values))
    with torch.inference_mode():
        wav = loaded.synthesise(torch.full((1, 80, 30), -5.0), [30], seeds=[0])
    assert wav.shape == (1, 30 * 480)
    assert wav.isfinite().all() and wav.std() > 1e-4


def test_evaluations_are_logged(config, finished):
    rows = [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").open()]
    assert 0 < rows[-1]["dev/mel"] < 10


def test_export_needs_a_run(config, tmp_path):
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        vocoder.export(dataclasses.replace(config, output_dir=str(tmp_path)))


def test_model_and_mel_must_fit(config):
    with pytest.raises(ConfigError, match="hop of model and mel differ: 480 and 240"):
        dataclasses.replace(config, mel=VoiceMel(hop=240))


def test_nano_is_the_default_model():
    assert load_config(vocoder.Config, NANO).model == SourceFilterConfig()


def test_nano_trains_on_no_held_out_recording():
    names = {source.manifest for source in load_config(vocoder.Config, NANO).data.sources}
    assert names == {"train_real.jsonl", "synth.jsonl", "synth_natural.jsonl"}


# ---- data ------------------------------------------------------------------------------


def test_prepared_sound_is_found_again(config, data, monkeypatch):
    def refuse(*_):
        raise AssertionError("prepared twice")

    monkeypatch.setattr("stepaudio_recipes.vocoder_data._prepare_part", refuse)
    again = prepare_source(config.data, config.data.sources[0], config.mel, config.seed)
    assert np.array_equal(again.pcm, data.sounds[0].pcm)
    assert len(again.pcm) == again.ends[-1] * 480 and len(again.f0) == again.ends[-1]
    assert 0.3 < (again.f0 > 0).mean() < 1
    assert 100 < np.median(again.f0[again.f0 > 0]) < 300


def test_a_source_without_rows(config):
    source = dataclasses.replace(config.data.sources[0], source="nobody")
    with pytest.raises(ConfigError, match=r"manifest\.jsonl: no rows of source 'nobody'"):
        prepare_source(config.data, source, config.mel, 0)


def test_rows_are_chosen_up_to_their_hours():
    rows = [ManifestRow(f"{i}.wav", "", 36.0) for i in range(100)]
    chosen = choose_rows(rows, 0.1, seed=3)
    assert len(chosen) == 10 and chosen != rows[:10]
    assert chosen == choose_rows(rows, 0.1, seed=3)
    assert len(choose_rows(rows, 100.0, seed=3)) == 100


def test_a_batch_depends_on_the_step_only(data):
    steps = dict(item for item, _ in zip(data.batches(3, Workers()), range(2), strict=False))
    assert list(steps) == [3, 4]
    assert torch.equal(steps[4].wav, data.batch(4).wav)
    assert not torch.equal(steps[3].wav, steps[4].wav)
    second = next(data.batches(3, Workers(rank=1, count=2)))
    assert second[0] == 3 and torch.equal(second[1].wav, data.batch(7).wav)


def test_mel_belongs_to_the_sound(data, config):
    batch = data.batch(0)
    lookahead = config.model.lookahead
    assert batch.mel.shape == (2, 80, 24 + lookahead)
    assert batch.wav.shape == (2, 24 * 480) and batch.wav.abs().max() < 1
    assert batch.f0.shape == batch.voiced.shape == (2, 24)
    assert batch.f0.min() >= config.model.lowest_f0
    inner = slice(2, 22)  # frames whose window lies in the stretch
    assert torch.allclose(
        config.mel(batch.wav)[..., inner], batch.mel[..., :24][..., inner], atol=1e-4
    )


def test_a_stretch_beyond_an_utterance_is_silent(config, data):
    digits = dataclasses.replace(config.data, sources=config.data.sources[1:], frames=100)
    batch = VoiceData(digits, config.mel, config.model, config.seed).batch(0)
    assert batch.wav.shape[1] == 100 * 480 and batch.wav[:, :480].any()
    assert not batch.wav[:, -480:].any() and not batch.voiced[:, -1].any()
