"""The benchmark of the encoder: both sides yield the same frames."""

from __future__ import annotations

import pytest
import torch

from benchmarks import encoder


def test_both_sides_yield_the_same_frames() -> None:
    ours = encoder.build_ours(*encoder.SIZES["tiny"])
    peer = encoder.build_peer(ours)
    mel = torch.randn(1, 80, 3000)
    found = encoder.encode_ours(ours, mel)
    assert found.shape == (1, 750, 32)
    assert torch.allclose(found, encoder.encode_peer(peer, ours.after_norm, mel), atol=1e-4)


def test_it_prints_a_ratio_and_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    encoder.main(["--size", "tiny", "--rounds", "2"])
    printed = capsys.readouterr().out
    assert "largest difference" in printed
    assert "Hugging Face" in printed
    assert "% of it" in printed
