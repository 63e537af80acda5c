"""Frame arithmetic against the reference table and its own invariants."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.audio.frames import PIECE_SAMPLES, FrameGeometry, num_mel_frames, pieces

PUBLIC = FrameGeometry()
NANO = FrameGeometry(causal=True, conv_strides=(2, 2), adaptor_stride=1)


def test_counts_equal_the_reference_table(vectors):
    for row in json.loads((vectors / "token_counts.json").read_text()):
        assert num_mel_frames(row["samples"]) == row["mel_frames"]
        assert PUBLIC.tokens_for_samples(row["samples"]) == row["audio_tokens"]


def test_both_geometries_give_twelve_and_a_half_tokens_a_second():
    assert PUBLIC.token_stride == NANO.token_stride == 8
    assert PUBLIC.tokens_for_samples(PIECE_SAMPLES) == 313
    assert NANO.tokens_for_samples(PIECE_SAMPLES) == 312


@given(st.integers(0, 4 * PIECE_SAMPLES))
def test_pieces_cover_the_waveform_without_gap_or_overlap(num_samples):
    bounds = list(pieces(num_samples))
    assert sum(stop - start for start, stop in bounds) == num_samples
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    assert all(0 < stop - start <= PIECE_SAMPLES for start, stop in bounds)


@given(st.integers(0, PIECE_SAMPLES - 1))
def test_longer_audio_never_has_fewer_tokens(num_samples):
    for geometry in (PUBLIC, NANO):
        shorter = geometry.tokens_for_samples(num_samples)
        assert 0 <= shorter <= geometry.tokens_for_samples(num_samples + 1) <= shorter + 1


@given(st.integers(0, 5000), st.integers(1, 12))
def test_causal_tokens_of_chunks_add_up(frames, chunks_of):
    chunk = chunks_of * NANO.token_stride
    parts = [min(chunk, frames - start) for start in range(0, frames, chunk)]
    assert sum(map(NANO.tokens, parts)) == NANO.tokens(frames)


def test_negative_lengths_are_refused():
    with pytest.raises(ValueError, match="negative"):
        num_mel_frames(-1)
