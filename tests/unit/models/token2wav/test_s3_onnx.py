"""The ONNX form of the S3 tokenizer: run as it is, or read into the native one."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from stepaudio.errors import CheckpointError
from stepaudio.models.token2wav.s3_onnx import OnnxS3Tokenizer, load_s3_onnx
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer
from tests.unit.models.token2wav.exports import export_tokenizer

CONFIG = S3Config(
    n_mels=8,
    n_audio_state=16,
    n_audio_head=2,
    n_audio_layer=2,
    fsmn_kernel=5,
    codebook_levels=(3, 3, 3),
)


@pytest.fixture(scope="module")
def tokenizer() -> S3Tokenizer:
    torch.manual_seed(3)
    tokenizer = S3Tokenizer(CONFIG)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tokenizer.eval()


@pytest.fixture(scope="module")
def exported(tokenizer: S3Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tokenizer.onnx"
    export_tokenizer(tokenizer, path)
    return path


def rewritten(path: Path, rename: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    rename(model)
    target = path.with_name(f"{rename.__name__}.onnx")
    onnx.save(model, target)
    return target


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in graph.initializer:
        if value.name == old:
            value.name = new
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def as_published(model: onnx.ModelProto) -> None:
    """Names of the public file: no encoder in the paths, anonymous convolutions and projection."""
    for node in model.graph.node:
        node.name = node.name.replace("/tokenizer/encoder/", "/")
        if "project_down" in node.name:
            node.name = node.op_type
    root = "tokenizer.encoder"
    for number, leaf in enumerate(("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")):
        rename_tensor(model.graph, f"{root}.{leaf}", f"onnx::Conv_{2216 + number}")
        for node in model.graph.node:
            node.name = node.name.replace(f"/conv{number + 1}/", "/")
    bias = "tokenizer.quantizer._codebook.project_down.bias"
    rename_tensor(model.graph, bias, "quantizer.project_in.bias")
    for block in range(CONFIG.n_audio_layer):
        for value in list(model.graph.initializer):
            if value.name.startswith(f"{root}.blocks.{block}."):
                rename_tensor(model.graph, value.name, value.name.replace(root, "encoders"))


@pytest.mark.parametrize("seconds", [1, 62])
def test_equal_codes(tokenizer: S3Tokenizer, exported: Path, seconds: int) -> None:
    wav = torch.randn(16_000 * seconds) * torch.linspace(0, 1, 16_000 * seconds)
    codes = tokenizer.tokenize(wav)
    assert len(codes) == 25 * seconds
    assert len(codes.unique()) > 2
    runtime = OnnxS3Tokenizer(exported, CONFIG)
    assert torch.equal(runtime.tokenize(wav), codes)
    assert runtime.token_rate == 25 and runtime.codebook_size == 27


def test_weights_become_the_native_ones(tokenizer: S3Tokenizer, exported: Path) -> None:
    for path in (exported, rewritten(exported, as_published)):
        loaded = load_s3_onnx(path, CONFIG)
        for name, tensor in tokenizer.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name


def test_another_architecture_is_refused(exported: Path) -> None:
    config = S3Config(**{**CONFIG.to_dict(), "n_audio_layer": 3})
    with pytest.raises(CheckpointError, match=r"tokenizer\.onnx.*missing.*blocks\.2"):
        load_s3_onnx(exported, config)


@pytest.mark.parametrize("content", [None, b"", b"nonsense" * 9])
def test_damaged_files(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.onnx"
    if content is not None:
        path.write_bytes(content)
    for load in (OnnxS3Tokenizer, load_s3_onnx):
        with pytest.raises(CheckpointError, match=r"tokenizer\.onnx"):
            load(path, CONFIG)


def test_another_model_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "neg.onnx"
    )
    with pytest.raises(CheckpointError, match="must take 2 inputs"):
        OnnxS3Tokenizer(tmp_path / "neg.onnx")
