"""Configuration and weights of the flow: public names, strict reading, no execution."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.token2wav.flow import Flow
from stepaudio.models.token2wav.flow_checkpoint import load_flow
from stepaudio.models.token2wav.flow_config import FlowConfig
from stepaudio.models.token2wav.flow_yaml import read_flow_yaml
from tests.unit.models.token2wav.flows import small_flow, small_flow_config

PUBLIC = """
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
    input_size: &width 512
    output_size: 80
    spk_embed_dim: 192
    output_type: 'mel'
    vocab_size: 6561
    encoder: !new:cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2
        input_size: *width
        output_size: !ref <flow.input_size>
        input_layer: 'linear'
        pre_lookahead_len: 3
        num_blocks: 6
        num_up_blocks: 4
        up_stride: 2
        up_scale_factor: 2
        attention_heads: 8
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        key_bias: true
        linear_units: 2048
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
    decoder: !new:cosyvoice2.flow.flow_matching.CausalConditionalCFM
        inference_cfg_rate: 0.7
        estimator: !new:cosyvoice2.flow.decoder_dit.DiT
            in_channels: 320
            out_channels: 80
            mlp_ratio: 4.0
            depth: 16
            num_heads: 8
            head_dim: 64
            hidden_size: 512
"""


@pytest.fixture
def public(tmp_path: Path) -> Path:
    path = tmp_path / "flow.yaml"
    path.write_text(PUBLIC)
    return path


def test_names_and_shapes_at_full_size(public: Path) -> None:
    listed = json.loads((Path(__file__).parents[3] / "assets/flow_shapes.json").read_text())
    expected = {}
    for name, shape in listed.items():
        count = re.search(r"\{0\.\.(\d+)\}", name)
        for index in range(int(count[1]) + 1 if count else 1):
            expected[re.sub(r"\{.*\}", str(index), name)] = shape
    assert len(expected) == 605
    with torch.device("meta"):
        flow = Flow(read_flow_yaml(public))
    assert {k: list(v.shape) for k, v in flow.state_dict().items()} == expected


def test_public_file_has_the_public_behaviour(public: Path) -> None:
    config = read_flow_yaml(public)
    assert config.streaming.mode == "reference"
    assert config.streaming.chunk_tokens == 25
    assert (config.sampler.num_steps, config.sampler.cfg_rate) == (10, 0.7)
    assert config.encoder.output_size == 512  # a resolved reference


def test_tags_are_never_executed(public: Path, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    for tag in (f"!apply:os.mkdir ['{trap}']", f"!new:os.mkdir ['{trap}']"):
        public.write_text(PUBLIC.replace("input_size: &width 512", f"input_size: &width {tag}"))
        with pytest.raises(ConfigError, match=r"flow\.yaml: .*input_size"):
            read_flow_yaml(public)
    public.write_text(PUBLIC + f"x: !!python/object/apply:os.mkdir ['{trap}']\n")
    with pytest.raises(CheckpointError, match=r"flow\.yaml"):
        read_flow_yaml(public)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("vocab_size: 6561", "", "vocab_size"),
        ("depth: 16", "depth: 16\n            width: 3", "width"),
        ("depth: 16", "depth: sixteen", "depth must be of type int"),
        ("in_channels: 320", "in_channels: 240", "four times"),
        ("'linear'", "'conv2d'", "input_layer must be 'linear'"),
        ("decoder: !new", "decoders: !new", "no section 'decoder'"),
        ("<flow.input_size>", "<flow.inputsize>", "refers to <flow.inputsize>"),
        ("<flow.input_size>", "<flow.encoder.output_size>", "circle"),
        ("inference_cfg_rate", "cfg_rate", "decoder: unknown fields"),
    ],
)
def test_errors_name_the_field(public: Path, old: str, new: str, problem: str) -> None:
    public.write_text(PUBLIC.replace(old, new))
    with pytest.raises(ConfigError, match=problem):
        read_flow_yaml(public)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_flow_yaml(tmp_path / "flow.yaml")
    (tmp_path / "flow.yaml").write_text("flow: [")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_flow_yaml(tmp_path / "flow.yaml")


def test_json_round_trip_writes_only_what_departs_from_the_public_behaviour() -> None:
    config = small_flow_config(cfg_rate=0.0, num_steps=4)
    values = json.loads(json.dumps(config.to_dict()))
    assert FlowConfig.from_dict(values) == config
    assert values["sampler"] == {"num_steps": 4, "cfg_rate": 0.0}
    del values["streaming"], values["sampler"]
    assert FlowConfig.from_dict(values).streaming.mode == "reference"
    for broken in (
        values | {"streaming": {"mode": "fast"}},
        values | {"streaming": {"chunk_tokens": 0}},
        values | {"sampler": {"num_steps": 0}},
        values | {"sampler": {"schedule": "sigmoid"}},
        values | {"sampler": {"temperature": -0.1}},
        values | {"sampler": 3},
        values | {"input_size": True},
        values | {"output_size": 7},
    ):
        with pytest.raises(ConfigError):
            FlowConfig.from_dict(broken)


@pytest.mark.parametrize("file", ["flow.pt", "flow.safetensors"])
def test_loading_is_strict(tmp_path: Path, file: str) -> None:
    flow = small_flow()
    state = flow.state_dict()
    path = tmp_path / file

    def save() -> None:
        torch.save(state, path) if path.suffix == ".pt" else save_file(state, path)

    save()
    loaded = load_flow(path, flow.config)
    assert not loaded.training
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    state["encoder_proj.bias"] = torch.zeros(3)
    state["surplus.weight"] = state.pop("encoder_proj.weight")
    save()
    with pytest.raises(CheckpointError) as caught:
        load_flow(path, flow.config)
    for name in (file, "encoder_proj.bias", "surplus.weight", "encoder_proj.weight"):
        assert name in str(caught.value)
