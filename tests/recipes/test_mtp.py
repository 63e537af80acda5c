"""Prediction blocks: both stages on a small random model, resumed and loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.checkpoint import load_pretrained, save_checkpoint
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.mtp_file import load_predictor
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio_recipes import mtp
from stepaudio_recipes.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = Path(mtp.__file__).parent / "configs"
# Four steps of the blocks alone, two of both. A change of these numbers is a change of the recipe.
LOSSES = [8.636, 8.496, 8.497, 8.329, 17.170, 17.007]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """Checkpoint of a random model whose greedy choices are not ties."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = TextTokenizer.from_folder(ROOT / "stepaudio" / "weights" / "nano")
    values = json.loads((CONFIGS / "pretrain" / "tiny_model.json").read_text())
    vocab = tokenizer.vocab
    values["text_config"] |= {
        "vocab_size": vocab.size,
        "eos_token_id": list(vocab.stop_ids),
        "pad_token_id": vocab.pad,
        "initializer_range": 0.2,
    }
    values |= {"audio_start_token_id": vocab.audio_start, "audio_patch_token_id": vocab.audio_patch}
    torch.manual_seed(0)
    save_checkpoint(StepAudio2ForCausalLM(StepAudioConfig(**values)), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def arguments(model_folder, tmp_path_factory, examples):
    data = shutil.copytree(examples, tmp_path_factory.mktemp("mtp") / "data")
    rows = [json.loads(line) for line in (data / "manifest.jsonl").open()]
    kept = [row for row in rows if len(row["text"].split()) > 3 and row["duration"] < 6]
    (data / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return [f"model={model_folder}", f"data.folder={data}"]


def configured(arguments, folder, *overrides):
    return load_config(
        mtp.Config, CONFIGS / "mtp" / "tiny.yaml", [*arguments, f"output_dir={folder}", *overrides]
    )


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = configured(arguments, folder)
    return config, mtp.main(config), folder


def test_losses_are_the_pinned_ones(finished):
    assert [round(loss, 3) for loss in finished[1]] == pytest.approx(LOSSES, abs=5e-3)


def test_a_finished_run_has_nothing_left_to_do(finished):
    assert mtp.main(finished[0]) == []


def test_the_joint_stage_writes_a_model_and_its_blocks(finished, model_folder):
    folder = finished[2] / "model"
    model, _ = load_pretrained(folder, device="cpu")
    before, _ = load_pretrained(model_folder, device="cpu")
    assert load_predictor(folder, model).config.num_blocks == 3
    assert torch.equal(model.encoder.conv1.weight.half(), before.encoder.conv1.weight.half())
    after = model.model.layers[0].mlp.up_proj.weight
    assert not torch.equal(after.half(), before.model.layers[0].mlp.up_proj.weight.half())


def test_logs_tell_acceptance_and_whether_drafts_change_anything(finished):
    rows = [json.loads(line) for line in (finished[2] / "blocks" / "log.jsonl").open()]
    evaluated = rows[-1]
    assert evaluated["mean_accepted"] >= 1
    assert evaluated["different"] == 0


@pytest.fixture(scope="module")
def blocks_alone(arguments, tmp_path_factory):
    """A reduced vocabulary, one set of weights, and texts that the decoder writes."""
    folder = tmp_path_factory.mktemp("alone")
    # The learning rate is constant, whatever the length of the run.
    loop = "{steps: 3, warmup_steps: 1, hold_fraction: 1.0}"
    stage = f"{{name: blocks, texts: decoder, loop: {loop}}}"
    overrides = (f"stages=[{stage}]", "blocks.shared=true", "blocks.num_draft_ids=300")
    return folder, mtp.main(configured(arguments, folder, *overrides)), overrides


def test_blocks_alone_are_an_add_on(blocks_alone, model_folder):
    folder, losses, _ = blocks_alone
    assert len(losses) == 3
    assert [path.name for path in (folder / "model").iterdir()] == ["mtp.safetensors"]
    model, tokenizer = load_pretrained(model_folder, device="cpu")
    predictor = load_predictor(folder / "model", model)
    assert (predictor.config.shared, len(predictor.blocks)) == (True, 1)
    assert predictor.draft_ids is not None and len(predictor.draft_ids) == 300
    assert tokenizer.vocab.eot in predictor.draft_ids


def test_a_killed_run_goes_on_where_it_was(arguments, blocks_alone, tmp_path):
    _, losses, overrides = blocks_alone
    shorter = "stages.0.loop.steps=2"
    first = mtp.main(configured(arguments, tmp_path, *overrides, shorter))
    second = mtp.main(configured(arguments, tmp_path, *overrides))
    assert (len(first), len(second)) == (2, 1)
    assert first + second == pytest.approx(losses, abs=1e-6)


def test_blocks_of_another_shape_are_refused(finished, model_folder):
    nano, _ = load_pretrained("nano", device="cpu")
    with pytest.raises(CheckpointError, match=r"blocks of another model.*blocks\.0"):
        load_predictor(finished[2] / "model", nano)


def test_a_trained_decoder_cannot_be_its_own_teacher(arguments, tmp_path):
    with pytest.raises(ConfigError, match="stage joint: a joint stage learns from transcripts"):
        configured(arguments, tmp_path, "stages.1.texts=decoder")
