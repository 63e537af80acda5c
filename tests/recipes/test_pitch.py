"""Pitch of recordings: tracks are joined, and a known pitch is found."""

import numpy as np
import pytest

from stepaudio_recipes.pitch import PitchConfig, fill_gaps, merge_tracks, track_pitch


def _track(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_gaps_are_filled_on_a_logarithmic_scale():
    filled = fill_gaps(_track(0, 100, 0, 0, 800, 0))
    assert filled == pytest.approx(_track(100, 100, 200, 400, 800, 800), rel=1e-5)
    assert not fill_gaps(np.zeros(3, np.float32)).any()


def test_a_loose_track_extends_a_strict_one_but_does_not_jump():
    strict, loose = _track(0, 100, 110, 0, 0), _track(95, 100, 115, 120, 240)
    assert merge_tracks(strict, loose).tolist() == [95, 100, 110, 120, 0]
    assert not merge_tracks(np.zeros(2, np.float32), _track(100, 100)).any()


@pytest.mark.parametrize("f0", [90.0, 220.0])
def test_a_known_pitch_is_found_at_the_ends_of_hops(f0):
    pytest.importorskip("pyworld")
    rate, hop, frames = 24_000, 480, 60
    time = np.arange(frames * hop) / rate
    # Half a second of a buzzing voice, then noise far softer than it.
    voice = sum(np.sin(2 * np.pi * k * f0 * time) / k for k in range(1, 20))
    rng = np.random.default_rng(0)
    wav = np.where(time < 0.5, 0.2 * voice, 0) + 1e-4 * rng.standard_normal(len(time))
    found = track_pitch(wav.astype(np.float32), rate, hop, PitchConfig())
    assert found.shape == (frames,)
    assert found[3:22] == pytest.approx(np.full(19, f0), rel=0.01)
    assert not found[30:].any()
