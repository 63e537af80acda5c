"""Transforms of batches equal PyTorch's of single rows."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.models.token2wav.spectral import centred_stft, trimmed_istft

hops = st.lists(st.integers(4, 40), min_size=1, max_size=4)


@settings(max_examples=25)
@given(hops)
def test_forward(counts: list[int]) -> None:
    lens = [4 * count for count in counts]
    wav = torch.randn(len(lens), max(lens))
    spectrum = centred_stft(wav, lens, 16, 4)
    for row, length in enumerate(lens):
        expected = torch.stft(
            wav[row, :length], 16, 4, window=torch.hann_window(16), return_complex=True
        )
        frames = expected.shape[-1]
        assert torch.allclose(spectrum[row, :, :frames], expected, atol=1e-5)
        assert not spectrum[row, :, frames:].abs().any()


@settings(max_examples=25)
@given(hops)
def test_inverse(lens: list[int]) -> None:
    spectrum = torch.randn(len(lens), 9, max(lens), dtype=torch.complex64)
    wav = trimmed_istft(spectrum, lens, 16, 4, margin=8)
    for row, length in enumerate(lens):
        expected = torch.istft(spectrum[row, :, :length], 16, 4, window=torch.hann_window(16))
        assert torch.allclose(wav[row, : len(expected)], expected, atol=1e-5)
        assert not wav[row, len(expected) :].any()


def test_one_hop_of_sound_for_every_frame() -> None:
    spectrum = torch.randn(1, 9, 5, dtype=torch.complex64)
    wav = trimmed_istft(spectrum, [5], 16, 4, margin=6)
    centred = trimmed_istft(spectrum, [5], 16, 4, margin=8)
    assert wav.shape == (1, 20)
    assert torch.equal(wav[:, 2:-2], centred)
