"""The pretraining recipe, whole: every stage on a few recordings, with pinned losses."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.models.encoder import ChunkMask
from stepaudio.tasks.asr import Transcriber
from stepaudio_recipes import pretrain, trainer
from stepaudio_recipes.config import load_config
from stepaudio_recipes.lexicon import PHONES

ROOT = Path(__file__).parents[2]
CONFIG = Path(pretrain.__file__).parent / "configs" / "pretrain" / "tiny.yaml"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Four steps of ctc, two of lm, four of joint. A change of these numbers is a change of the
# recipe: of its data order, augmentation, initialisation, model or optimiser.
LOSSES = [4.832, 4.533, 3.921, 3.781, 7.953, 7.894, 9.044, 8.923, 8.663, 8.520]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("pretrain")
    data = shutil.copytree(examples, folder / "data")
    short = [
        line for line in (data / "manifest.jsonl").read_text().splitlines() if "long" not in line
    ]
    (data / "manifest.jsonl").write_text("\n".join(short) + "\n")
    lines = ["the cat sat on the mat", "one two three", "it was a quiet morning"] * 20
    (folder / "texts.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return [
        f"data.folder={data}",
        f"tokenizer={ROOT / 'stepaudio' / 'weights' / 'nano'}",
        f"texts={folder / 'texts.txt.gz'}",
    ]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = load_config(pretrain.Config, CONFIG, [*arguments, f"output_dir={folder}"])
    return config, pretrain.main(config), folder


def test_losses_are_the_pinned_ones(finished):
    assert [round(loss, 3) for loss in finished[1]] == pytest.approx(LOSSES, abs=5e-3)


def test_a_finished_run_has_nothing_left_to_do(finished):
    assert pretrain.main(finished[0]) == []


def test_the_model_loads_and_transcribes(finished):
    model, tokenizer = load_pretrained(str(finished[2] / "model"), device="cpu")
    texts = Transcriber(model, tokenizer).transcribe_pieces([torch.randn(16_000) * 0.1])
    assert len(texts) == 1


def test_training_can_start_from_a_trained_model(finished):
    folder = str(finished[2] / "model")
    run = pretrain.build_run(finished[0])
    model = pretrain.SpeechEncoder(run.model_config.audio_encoder_config)
    pretrain.load_initial(model, folder)
    trained, _ = load_pretrained(folder, device="cpu")
    assert torch.equal(model.encoder.conv1.weight, trained.encoder.conv1.weight)
    assert torch.equal(model.ctc_head.proj.weight, trained.ctc_head.proj.weight)


def test_starting_from_a_model_of_another_shape_names_the_tensors(finished):
    run = pretrain.build_run(finished[0])
    model = pretrain.SpeechEncoder(run.model_config.audio_encoder_config)
    with pytest.raises(CheckpointError, match=r"not a model of this shape.*encoder\.conv1"):
        pretrain.load_initial(model, "nano")


@pytest.fixture(scope="module")
def with_phones(arguments, finished, tmp_path_factory):
    """A model with a head on phones, which goes on from the one without."""
    folder = tmp_path_factory.mktemp("phones")
    values = json.loads((CONFIG.parent / "tiny_model.json").read_text())
    values["audio_encoder_config"]["ctc_phones"] = list(PHONES)
    (folder / "model.json").write_text(json.dumps(values))
    words = "the DH AH0\n" + "".join(f"{digit} N AH1 M\n" for digit in DIGITS)
    (folder / "lexicon.gz").write_bytes(gzip.compress(words.encode()))
    overrides = (
        f"output_dir={folder}",
        f"model={folder / 'model.json'}",
        f"lexicon={folder / 'lexicon.gz'}",
        f"init={finished[2] / 'model'}",
        "stages.0.phone_weight=0.5",
        "stages.1.loop.steps=1",
        "stages.2.phone_weight=0.5",
    )
    config = load_config(pretrain.Config, CONFIG, [*arguments, *overrides])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "LOG_EVERY", 1)
        return folder, pretrain.main(config)


def test_a_head_on_phones_joins_a_trained_model(finished, with_phones):
    folder, losses = with_phones
    assert len(losses) == 9 and all(0 < loss < 50 for loss in losses)
    for stage in ("ctc", "joint"):
        log = [json.loads(line) for line in (folder / stage / "log.jsonl").open()]
        assert [row["phones"] > 0 for row in log if "phones" in row] == [True] * 4
    model, _ = load_pretrained(str(folder / "model"), device="cpu")
    assert model.config.audio_encoder_config.ctc_phones == PHONES
    untrained = pretrain.SpeechEncoder(model.config.audio_encoder_config)
    shape = untrained.phone_head.proj.weight.shape
    assert model.phone_head.proj.weight.shape == shape
    before, _ = load_pretrained(str(finished[2] / "model"), device="cpu")
    difference = (model.encoder.conv1.weight - before.encoder.conv1.weight).abs().max()
    assert 0 < difference < 0.05


def test_phone_targets_need_a_head_on_phones(finished, arguments, tmp_path):
    overrides = (f"output_dir={tmp_path}", "stages.0.phone_weight=0.5")
    config = load_config(pretrain.Config, CONFIG, [*arguments, *overrides])
    with pytest.raises(ConfigError, match="stage ctc: phone_weight needs a model whose ctc_phones"):
        pretrain.main(config)


def test_logs_are_written_for_people_and_tensorboard(finished):
    folder = finished[2] / "joint"
    assert (
        "wer/kathleen" in (folder / "log.jsonl").read_text()
        or "wer/" in (folder / "log.jsonl").read_text()
    )
    assert list((folder / "tensorboard").iterdir())


def test_chunk_masks_are_drawn_from_the_config():
    import numpy as np

    config = pretrain.ChunkConfig(full_probability=0.5, chunks=(32, 64), lefts=(128,))
    rng = np.random.default_rng(0)
    masks = [pretrain.sample_chunk_mask(config, rng) for _ in range(200)]
    assert set(masks) == {None, ChunkMask(32, 128), ChunkMask(64, 128)}
    assert 60 < masks.count(None) < 140


def test_replaced_tokens_leave_prompt_and_labels():
    import numpy as np

    ids = torch.arange(100)[None]
    labels = torch.where(ids < 50, -100, ids)
    noisy = pretrain.replace_tokens(ids, labels, 0.5, 2000, np.random.default_rng(0))
    assert torch.equal(noisy[:, :50], ids[:, :50])
    assert 10 < (noisy != ids).sum() < 40
    assert pretrain.replace_tokens(ids, labels, 0.0, 2000, np.random.default_rng(0)) is ids
