"""Weight files are read without running code and loaded strictly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stepaudio.errors import CheckpointError
from stepaudio.models.token2wav.loading import load_strict, read_tensors


def test_both_formats(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    save_file(layer.state_dict(), tmp_path / "a.safetensors")
    for file in ("a.pt", "a.safetensors"):
        with torch.device("meta"):
            loaded = nn.Linear(3, 2)
        load_strict(loaded, read_tensors(tmp_path / file), file)
        assert torch.equal(loaded.weight, layer.weight)
        assert loaded.weight.requires_grad


def test_half_precision_is_widened() -> None:
    loaded = nn.Linear(3, 2)
    half = {k: v.half() for k, v in loaded.state_dict().items()}
    load_strict(loaded, half, "a.pt")
    assert loaded.weight.dtype == torch.float32
    load_strict(loaded, half, "a.pt", dtype=None)
    assert loaded.weight.dtype == torch.float16


def test_every_mismatch_is_listed() -> None:
    tensors = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_strict(nn.Linear(3, 2), tensors, "voice.pt")
    message = str(caught.value)
    assert message.startswith("voice.pt: ")
    assert "missing (1): bias [2]" in message
    assert "surplus (1): extra [1]" in message
    assert "wrong shape (1): weight [2, 4], expected [2, 3]" in message


class _Payload:
    pass


def test_code_is_never_run(tmp_path: Path) -> None:
    torch.save({"a": _Payload()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged or not a file of weights"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nothing of the sort"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(tmp_path / name)


def test_missing_file_and_other_content(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_tensors(tmp_path / "absent.pt")
    torch.save({"step": 3}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="named tensors"):
        read_tensors(tmp_path / "a.pt")
