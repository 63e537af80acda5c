"""Log-mel against reference numbers, and streams against whole pieces."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from stepaudio.audio.frames import num_mel_frames
from stepaudio.audio.mel import init_mel_stream, log_mel, mel_filters, stream_log_mel

# Where a band holds almost nothing, rounding inside the FFT shows behind the logarithm; the
# reference itself is as far from a float64 computation.
TOLERANCE = 2e-5


def test_filters_equal_the_reference(vectors):
    reference = load_file(vectors / "mel_extra.safetensors")["filters_128"]
    assert torch.equal(mel_filters(128), reference)


def test_mel_equals_the_reference(vectors):
    extra = load_file(vectors / "mel_extra.safetensors")
    wav = torch.from_numpy(np.load(vectors / "wav_3s_16k.npy"))
    reference = torch.from_numpy(np.load(vectors / "mel_3s_128.npy"))
    assert (log_mel(wav) - reference).abs().max() < TOLERANCE
    assert (log_mel(wav, padding=0) - extra["mel_3s_nopad"]).abs().max() < TOLERANCE
    assert (log_mel(extra["wav_odd"]) - extra["mel_odd"]).abs().max() < TOLERANCE


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9000), st.lists(st.integers(0, 1500), max_size=8))
def test_stream_equals_the_whole_piece(num_samples, cuts):
    wav = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples)) * 0.1
    state, frames = init_mel_stream(), []
    rest = wav
    for cut in cuts:
        mel, state = stream_log_mel(rest[:cut], state, 80)
        frames.append(mel)
        rest = rest[cut:]
    mel, state = stream_log_mel(rest, state, 80, last=True)
    streamed = torch.cat([*frames, mel], dim=1)
    assert streamed.shape[1] == num_mel_frames(num_samples) == state.num_frames
    if num_samples > 200:
        whole = log_mel(wav, 80, floor="fixed")
        assert (streamed - whole).abs().max() < TOLERANCE


def test_stream_remembers_a_bounded_number_of_samples():
    state = init_mel_stream()
    for _ in range(50):
        _, state = stream_log_mel(torch.zeros(1600), state, 80)
    assert state.tail.shape[0] < 1600


def test_fixed_floor_does_not_depend_on_the_rest_of_the_piece():
    quiet, loud = torch.randn(8000) * 0.001, torch.randn(8000) * 0.5
    alone = log_mel(quiet, 80, floor="fixed")
    together = log_mel(torch.cat([quiet, loud]), 80, floor="fixed")
    assert torch.allclose(alone[:, :45], together[:, :45], atol=1e-5)
