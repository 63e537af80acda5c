"""The token2wav recipe, whole: a tiny flow on a few recordings, with pinned losses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.flow import VoicePrompt
from stepaudio.models.token2wav.folder import TrainedParts, load_parts, save_parts
from stepaudio.models.token2wav.istft_vocoder import IstftVocoder, IstftVocoderConfig
from stepaudio.models.token2wav.mel_decoder import mel_decoder
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer
from stepaudio.text.manifest import read_manifest
from stepaudio_recipes import token2wav
from stepaudio_recipes.codes import CodeStore
from stepaudio_recipes.codes import row_key as code_key
from stepaudio_recipes.config import load_config

CONFIG = Path(token2wav.__file__).parent / "configs" / "token2wav" / "tiny.yaml"
# A change of these numbers is a change of the recipe: of its data order, draws, initialisation,
# model or optimiser.
LOSSES = [3.342, 3.037, 3.342, 3.180]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("token2wav")
    rng = np.random.default_rng(0)
    codes = {
        code_key(row): rng.integers(0, 27, int(np.ceil(row.duration * 25))).astype(np.int16)
        for row in read_manifest(examples / "manifest.jsonl")
    }
    CodeStore(folder / "codes").write("manifest", codes)
    return [
        f"data.folder={examples}",
        f"codes={folder / 'codes'}",
        f"features={folder / 'features'}",
    ]


def config_of(arguments, *overrides):
    return load_config(token2wav.Config, CONFIG, [*arguments, *overrides])


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = config_of(arguments, f"output_dir={folder}")
    return config, token2wav.main(config), folder


def test_losses_are_the_pinned_ones(finished):
    assert [round(loss, 3) for loss in finished[1]] == pytest.approx(LOSSES, abs=5e-3)


def test_a_finished_run_has_nothing_left_to_do(finished):
    assert token2wav.main(finished[0]) == []


def test_a_killed_run_goes_on_as_if_nothing_had_happened(finished, arguments, tmp_path):
    half = [*arguments, f"output_dir={tmp_path}"]
    first = token2wav.main(config_of(half, "loop.steps=2"))
    second = token2wav.main(config_of(half))
    # The learning rate of step 2 depends on the length of the run, the losses before it do not.
    assert first + second[:1] == pytest.approx(finished[1][:3], abs=1e-5)


def test_a_run_begins_with_trained_weights(finished, arguments, tmp_path):
    """Digits add to the table of codes from zero, and are one table again when it is written."""
    trained = finished[2] / "model"
    others = ["code_levels=[3,3,3]", "loop.steps=1", f"start={trained}", f"output_dir={tmp_path}"]
    config = config_of(arguments, *others, "start_codes=true")
    run = token2wav.build_run(config, CodeStore(config.codes), torch.device("cpu"))
    flow, speaker = token2wav.load_trained(trained)
    torch.testing.assert_close(
        run.model.flow.input_embedding.weight, flow.input_embedding.weight.float()
    )
    for name, value in speaker.state_dict().items():
        torch.testing.assert_close(run.model.speaker.state_dict()[name], value.float())
    losses = token2wav.main(config)
    written = token2wav.load_trained(tmp_path / "model")[0]
    assert len(losses) == 1
    assert written.state_dict().keys() == flow.state_dict().keys()
    fresh = config_of(arguments, *others)
    again = token2wav.build_run(fresh, CodeStore(fresh.codes), torch.device("cpu"))
    assert not torch.equal(
        again.model.flow.input_embedding.weight, flow.input_embedding.weight.float()
    )


def test_codes_share_what_their_digits_learn():
    sums = token2wav.DigitSums((3, 3), 4)
    table = torch.zeros(9, 4)
    # The first digit of code 4 is 1, as it is of codes 1 and 7.
    sums(table)[4].sum().backward()
    moved = sums(table).detach()
    with torch.no_grad():
        sums.sums -= sums.sums.grad
    change = (sums(table) - moved).abs().sum(dim=1)
    assert change[4] == change.max()
    assert bool((change[[1, 7, 3, 5]] > 0).all())
    assert bool((change[[0, 2, 6, 8]] == 0).all())


def test_evaluations_are_logged(finished):
    rows = [json.loads(line) for line in (finished[2] / "train" / "log.jsonl").open()]
    assert any(0 < row.get("mel", 0) < 20 and 0 < row["mel_prompt"] < 20 for row in rows)


def test_everything_fits_into_one_folder(finished, tmp_path):
    """What is written is fp16, loads, and runs behind a tokenizer and a vocoder."""
    flow, speaker = token2wav.load_trained(finished[2] / "model")
    tokenizer = S3Tokenizer(
        S3Config(
            n_mels=16,
            n_audio_state=16,
            n_audio_head=2,
            n_audio_layer=1,
            fsmn_kernel=3,
            codebook_levels=(3, 3, 3),
        )
    )
    vocoder = IstftVocoder(IstftVocoderConfig())
    save_parts(tmp_path, TrainedParts(flow.half(), vocoder, tokenizer, speaker.half(), VoiceMel()))
    parts = load_parts(tmp_path)
    decoder = mel_decoder(parts.flow, parts.flow.config.streaming.mode)
    embedding = parts.encoders.speaker.embed(torch.randn(16_000))
    voice = decoder.prepare(VoicePrompt(torch.zeros(0).long(), torch.zeros(80, 0), embedding))
    mel = decoder.generate(torch.arange(20), voice)
    assert mel.shape == (80, 40) and bool(mel.isfinite().all())


def test_a_run_that_has_not_begun_cannot_be_loaded(tmp_path):
    with pytest.raises(CheckpointError, match=r"flow\.json.*run the recipe token2wav first"):
        token2wav.load_trained(tmp_path)


def test_recordings_without_codes_are_named(arguments, tmp_path):
    config = config_of(arguments, f"codes={tmp_path}", f"output_dir={tmp_path}")
    with pytest.raises(ConfigError, match="has no audio codes"):
        token2wav.main(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speaker.embedding_size=9", "spk_embed_dim and speaker.embedding_size differ"),
        ("mel.num_mels=40", "output_size and mel.num_mels differ"),
        ("mel.hop=470", "whole number of audio tokens"),
        ("data.prompt_s=[0.1, 1.0]", "must last 0.2 s"),
    ],
)
def test_contradictory_settings_are_refused(arguments, override, message):
    with pytest.raises(ConfigError, match=message):
        config_of(arguments, override)


def test_replaced_tokens(arguments, finished):
    config = finished[0]
    run = token2wav.build_run(config, CodeStore(config.codes), torch.device("cpu"))
    _, batch = next(run.data.batches(0, token2wav.Workers()))
    noisy = token2wav.replaced_tokens(batch, 0.5, 27, torch.Generator().manual_seed(0))
    changed = float((noisy != batch.tokens).float().mean())
    assert 0.35 < changed < 0.6 and 0 <= int(noisy.min()) <= int(noisy.max()) < 27
    assert token2wav.replaced_tokens(batch, 0.0, 27, torch.Generator()) is batch.tokens
