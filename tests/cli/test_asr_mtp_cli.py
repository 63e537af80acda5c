"""``stepaudio asr --decoding mtp`` and ``--stats``."""

import json
import shutil

import pytest
import torch

from stepaudio.models.checkpoint import load_model
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.mtp_file import save_predictor


@pytest.fixture(scope="module")
def with_blocks(random_model, tmp_path_factory):
    """The random model with prediction blocks beside it."""
    folder = shutil.copytree(random_model, tmp_path_factory.mktemp("blocks") / "model")
    model = load_model(folder)
    torch.manual_seed(0)
    predictor = MultiTokenPredictor.from_decoder(PredictorConfig(num_blocks=3), model.model)
    save_predictor(predictor, folder)
    return folder


def test_the_text_is_that_of_greedy_decoding(run, with_blocks, examples):
    speech = examples / "learner_child.ogg"
    found = {}
    for decoding in ("greedy", "mtp"):
        done = run(
            "asr",
            speech,
            "--model",
            with_blocks,
            "--decoding",
            decoding,
            "--stats",
            "--format",
            "json",
        )
        assert (done.status, done.err) == (0, b"")
        (found[decoding],) = done.objects
    assert found["mtp"]["text"] == found["greedy"]["text"]
    assert found["greedy"]["mean_accepted"] == 1
    assert found["greedy"]["prefix_acceptance"] == []
    ours = found["mtp"]
    # The prefill yields the first token.
    assert ours["tokens"] - 1 == pytest.approx(ours["passes"] * ours["mean_accepted"], rel=1e-3)
    assert ours["encode_ms"] > 0 and ours["decode_ms"] > 0


def test_blocks_can_be_elsewhere(run, random_model, with_blocks, examples):
    speech = examples / "digit_four.wav"
    path = with_blocks / "mtp.safetensors"
    done = run(
        "asr", speech, "--model", random_model, "--decoding", "mtp", "--mtp", path, "--stats"
    )
    assert done.status == 0
    (line,) = done.errors
    assert json.loads(line)["file"] == str(speech)
    assert json.loads(line)["mean_accepted"] >= 1


def test_missing_blocks_are_one_line(run, random_model, examples):
    done = run("asr", examples / "digit_four.wav", "--model", random_model, "--decoding", "mtp")
    assert done.status == 1
    (line,) = done.errors
    assert "has no mtp.safetensors" in line and "stepaudio-train run mtp" in line
