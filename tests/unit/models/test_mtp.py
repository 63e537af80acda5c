"""Prediction blocks: what they compute, and their file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.checkpoint import save_checkpoint
from stepaudio.models.masks import plan_attention
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.mtp_file import PREDICTOR_FILE, find_predictor, load_predictor, save_predictor
from stepaudio.models.step_audio import StepAudio2ForCausalLM

Build = Callable[..., StepAudio2ForCausalLM]


def predictor_of(model: StepAudio2ForCausalLM, **config: object) -> MultiTokenPredictor:
    return MultiTokenPredictor.from_decoder(PredictorConfig(**config), model.model)


@pytest.mark.parametrize("shared", [False, True])
def test_blocks_follow_the_definition(tiny_model: Build, shared: bool) -> None:
    model = tiny_model()
    predictor = predictor_of(model, num_blocks=2, shared=shared)
    assert len(predictor.blocks) == (1 if shared else 2)
    ids = torch.randint(3, 190, (1, 9))
    plan = plan_attention(9, ids.device, model.config.text_config.layer_windows)
    with torch.no_grad():
        for block in predictor.unique_blocks():  # norms that do something
            block.hidden_norm.weight.uniform_(0.5, 1.5)
            block.embed_norm.weight.uniform_(0.5, 1.5)
        embeds = model.model.embed_tokens(ids)
        z = model.model(embeds, plan)
        states = predictor(z, embeds, plan)
        for h in (1, 2):
            block = predictor.block(h - 1)
            # u_h(t) for every t that has a token h places ahead.
            norm = F.rms_norm(z[:, : 9 - h], (64,), block.hidden_norm.weight, 1e-6)
            token = F.rms_norm(embeds[:, h:], (64,), block.embed_norm.weight, 1e-6)
            u = torch.cat([norm, token], -1) @ block.proj.weight.T
            short = plan_attention(9 - h, ids.device, model.config.text_config.layer_windows)
            z = block.layer(u, predictor.rotary(short, u.dtype), None, None)
            assert torch.allclose(states[h - 1][:, : 9 - h], z, atol=1e-5)


def test_layers_start_as_the_last_one_of_the_decoder(tiny_model: Build) -> None:
    model = tiny_model()
    predictor = predictor_of(model)
    last = model.model.layers[-1].state_dict()
    assert predictor.config.num_blocks == 5
    for block in predictor.unique_blocks():
        assert all(torch.equal(v, last[k]) for k, v in block.layer.state_dict().items())
    weights = [block.layer.mlp.up_proj.weight for block in predictor.unique_blocks()]
    assert len({weight.data_ptr() for weight in weights}) == 5


def test_short_rows_have_nothing_ahead(tiny_model: Build) -> None:
    model = tiny_model()
    states = predictor_of(model)(
        torch.randn(1, 2, 64),
        torch.randn(1, 2, 64),
        plan_attention(2, torch.device("cpu"), model.config.text_config.layer_windows),
    )
    assert [tuple(state.shape) for state in states] == [(1, 2, 64)] * 5


def test_windowed_models_have_windowed_caches(tiny_model: Build) -> None:
    some = tiny_model(use_sliding_window=True, sliding_window=7, max_window_layers=1)
    assert predictor_of(some).cache_config(2).layer_windows == (7, 7)
    assert predictor_of(tiny_model()).cache_config(3).layer_windows == (None,) * 3


def test_the_file_is_an_add_on(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    save_checkpoint(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    config = PredictorConfig(num_blocks=3, shared=True, num_draft_ids=4)
    ids = torch.tensor([3, 5, 60, 299])
    predictor = MultiTokenPredictor.from_decoder(config, model.model, ids)
    path = save_predictor(predictor, tmp_path, dtype=torch.float16)
    assert path.name == PREDICTOR_FILE
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != path} == before
    loaded = load_predictor(tmp_path, model)
    assert loaded.config == config and not loaded.training
    assert loaded.draft_ids is not None and loaded.draft_ids.tolist() == ids.tolist()
    for name, value in predictor.named_parameters():
        assert torch.equal(loaded.get_parameter(name), value.half().float())
    save_checkpoint(model, tmp_path)
    assert find_predictor(tmp_path) == path


def test_files_that_do_not_fit_are_refused(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    assert find_predictor(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"no mtp\.safetensors there.*run mtp"):
        load_predictor(tmp_path, model)
    path = save_predictor(predictor_of(model, num_blocks=2), tmp_path)
    other = tiny_model(intermediate_size=80)
    with pytest.raises(CheckpointError, match=r"blocks of another model.*down_proj"):
        load_predictor(path, other)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        load_predictor(path, model)
    path.write_bytes(content)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="damaged"):
        load_predictor(path, model)
    save_file(tensors, path, {"multi_token_predictor": '{"num_blocks": 2, "num_draft_ids": 2}'})
    with pytest.raises(CheckpointError, match="None draft ids do not fit num_draft_ids 2"):
        load_predictor(path, model)
    header = {"multi_token_predictor": '{"num_blocks": 2, "num_draft_ids": 1}'}
    save_file(tensors | {"draft_ids": torch.tensor([300], dtype=torch.int32)}, path, header)
    with pytest.raises(CheckpointError, match="outside of the model's vocabulary"):
        load_predictor(path, model)


def test_large_weights_are_not_cut_off(tiny_model: Build, tmp_path: Path) -> None:
    predictor = predictor_of(tiny_model(), num_blocks=1)
    with torch.no_grad():
        predictor.block(0).proj.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"blocks\.0\.proj\.weight exceeds the range"):
        save_predictor(predictor, tmp_path, dtype=torch.float16)
    assert find_predictor(tmp_path) is None


def test_wrong_shapes_are_named(tiny_model: Build) -> None:
    with pytest.raises(ConfigError, match="num_blocks must be at least 1, got 0"):
        PredictorConfig(num_blocks=0)
    with pytest.raises(ConfigError, match="num_draft_ids must be at least 1, got 0"):
        PredictorConfig(num_draft_ids=0)
    with pytest.raises(ConfigError, match="3 draft ids do not fit num_draft_ids 2"):
        MultiTokenPredictor(
            PredictorConfig(num_draft_ids=2), tiny_model().config.text_config, torch.arange(3)
        )
