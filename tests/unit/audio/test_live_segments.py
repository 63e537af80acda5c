"""Windows of speech that are decided frame by frame."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.live_segments import LIVE_VAD_OPTIONS, LiveWindows, cut_live
from stepaudio.audio.vad import VAD_FRAME_SAMPLES

FRAME_S = VAD_FRAME_SAMPLES / SAMPLE_RATE


def frames(*stretches: tuple[float, float]) -> list[float]:
    """Probabilities of (duration in s, probability) stretches."""
    return [p for duration_s, p in stretches for _ in range(round(duration_s / FRAME_S))]


def seconds(windows: list[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(round(a / SAMPLE_RATE, 1), round(b / SAMPLE_RATE, 1)) for a, b in windows]


def test_silence_and_clicks_give_no_window():
    assert cut_live([]) == []
    assert cut_live(frames((600, 0.05))) == []
    assert cut_live(frames((1, 0.0), (0.06, 0.9), (1, 0.0))) == []


def test_a_sentence_is_one_padded_window():
    values = frames((1, 0.0), (1, 0.9), (0.7, 0.1), (1, 0.9), (3, 0.0))
    assert seconds(cut_live(values)) == [(0.8, 3.9)]


def test_a_long_window_ends_at_a_shorter_pause():
    values = frames((6, 0.9), (0.6, 0.1), (2, 0.9), (0.6, 0.1), (2, 0.9), (2, 0.0))
    assert [b - a < 7 for a, b in seconds(cut_live(values))] == [True, True]


def test_speech_without_any_pause_is_cut_before_it_is_too_long():
    windows = cut_live(frames((70, 0.9)))
    assert max(b - a for a, b in windows) <= LIVE_VAD_OPTIONS.max_window_samples
    assert all(stop == start for (_, stop), (start, _) in pairwise(windows))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 900), st.sampled_from([0.0, 0.4, 0.6, 0.95])), max_size=12)
)
def test_what_lies_in_an_open_window_stays_there(stretches):
    values = [p for count, p in stretches for _ in range(count)]
    heard, windows, promised = LiveWindows(), [], 0
    for value in values:
        heard, window = heard.push(value)
        if window is not None:
            windows.append(window)
            assert window[1] >= promised
            promised = 0
        elif heard.open_from is not None:
            assert promised <= heard.ready
            promised = heard.ready
            assert heard.first_needed == heard.open_from
    heard, window = heard.finish()
    windows += [] if window is None else [window]
    assert all(a < b for a, b in windows)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(windows))
    longest = LIVE_VAD_OPTIONS.max_window_samples // VAD_FRAME_SAMPLES
    assert all(b - a <= longest for a, b in windows)
