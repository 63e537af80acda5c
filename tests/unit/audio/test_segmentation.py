from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepaudio.audio.frames import PIECE_SAMPLES, SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.audio.segmentation import (
    Segment,
    SpeechRuns,
    VadOptions,
    cut_at_silence,
    iter_speech_windows,
    speech_segments,
)
from stepaudio.audio.vad import VAD_FRAME_SAMPLES, silero_detector
from stepaudio.text.manifest import read_manifest

EXAMPLES = Path(__file__).parents[3] / "examples" / "audio"
FRAME_S = VAD_FRAME_SAMPLES / SAMPLE_RATE
PADDING = 7  # frames of 200 ms


def probabilities(*stretches: tuple[float, float]) -> list[float]:
    """Frames of (duration in s, probability) stretches."""
    return [p for duration_s, p in stretches for _ in range(round(duration_s / FRAME_S))]


def runs(values: Sequence[float], options: VadOptions | None = None) -> list[tuple[int, int]]:
    heard = SpeechRuns(options or VadOptions())
    for value in values:
        heard.push(value)
    heard.finish()
    return heard.runs


def cut(values: Sequence[float], options: VadOptions | None = None) -> list[Segment]:
    return cut_at_silence(len(values) * VAD_FRAME_SAMPLES, values, options or VadOptions())


class RecordedDetector:
    """Says what it is told, frame by frame."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def init_state(self) -> tuple[int, int]:
        return 0, 0

    def speech_probabilities(
        self, samples: Tensor, state: tuple[int, int], *, last: bool = False
    ) -> tuple[Tensor, tuple[int, int]]:
        heard, given = state
        heard += len(samples)
        stop = -(-heard // VAD_FRAME_SAMPLES) if last else heard // VAD_FRAME_SAMPLES
        return torch.tensor(self.values[given:stop]), (heard, stop)


def test_hysteresis() -> None:
    assert runs([0.1, 0.6, 0.4, 0.4, 0.1, 0.1, 0.1]) == [(1, 4)]
    assert runs([0.4] * 10) == []
    assert runs([0.6] * 10) == [(0, 10)]


def test_short_gaps_and_short_sounds() -> None:
    assert runs([0.9] * 4 + [0.1] * 2 + [0.9] * 4) == [(0, 10)]
    assert runs([0.9] * 4 + [0.1] * 3 + [0.9] * 4) == [(0, 4), (7, 11)]
    assert runs([0.1] * 5 + [0.9] * 2 + [0.1] * 5) == []
    assert runs([0.1] * 5 + [0.9] * 3 + [0.1] * 5) == [(5, 8)]


def test_silence_gives_no_window() -> None:
    assert cut(probabilities((60, 0.05))) == []
    assert cut([]) == []


def test_short_recording_is_one_padded_window() -> None:
    (window,) = cut(probabilities((1, 0.0), (1, 0.9), (0.7, 0.1), (1, 0.9), (1, 0.0)))
    assert window.start_s == pytest.approx(1.0 - 0.2, abs=0.06)
    assert window.stop_s == pytest.approx(3.7 + 0.2, abs=0.06)


def test_windows_end_at_pauses_once_they_are_long() -> None:
    sentence = [(4.0, 0.9), (0.6, 0.1)]
    windows = cut(probabilities(*(sentence * 10)))
    assert [round(window.stop_s - window.start_s) for window in windows] == [9] * 5


def test_long_pause_ends_any_window() -> None:
    windows = cut(probabilities((1, 0.9), (5, 0.1), (1, 0.9)))
    assert len(windows) == 2
    assert windows[1].start - windows[0].stop > 4 * SAMPLE_RATE


def test_longest_gap_is_taken_when_no_pause_is_long() -> None:
    values = probabilities(
        (9, 0.9), (0.2, 0.1), (5, 0.9), (0.4, 0.1), (4, 0.9), (0.15, 0.1), (9, 0.9)
    )
    windows = cut(values)
    assert windows[0].stop_s == pytest.approx(14.4, abs=0.1)
    assert windows[1].start == windows[0].stop  # the gap is shared


def test_early_gap_is_better_than_a_cut_in_speech() -> None:
    windows = cut(probabilities((3, 0.9), (0.2, 0.1), (24, 0.9)))
    assert windows[0].stop_s == pytest.approx(3.1, abs=0.1)
    assert len(windows) == 2


def test_endless_speech_is_cut_where_it_is_least_likely() -> None:
    values = probabilities((60, 0.9))
    values[500] = 0.6
    windows = cut(values)
    assert windows[0].stop == windows[1].start == 500 * VAD_FRAME_SAMPLES
    assert max(window.stop - window.start for window in windows) <= PIECE_SAMPLES


def test_options_are_checked() -> None:
    for wrong in (
        {"onset": 0.3},
        {"offset": 0.0},
        {"pause_ms": 300},
        {"long_pause_ms": 400},
        {"max_window_samples": 10_000},
    ):
        with pytest.raises(ValueError):
            VadOptions(**wrong)  # type: ignore[arg-type]


STRETCHES = st.lists(
    st.tuples(st.floats(0.03, 30), st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.95])), max_size=10
).map(lambda stretches: probabilities(*stretches))


@settings(max_examples=80, deadline=None)
@given(values=STRETCHES, cut_off=st.integers(0, VAD_FRAME_SAMPLES - 1))
def test_windows_hold_all_speech_and_fit(values: list[float], cut_off: int) -> None:
    num_samples = max(0, len(values) * VAD_FRAME_SAMPLES - cut_off)
    windows = cut_at_silence(num_samples, values)

    speech = torch.zeros(len(values), dtype=torch.bool)
    for start, stop in runs(values):
        speech[start:stop] = True
    covered = torch.zeros(len(values), dtype=torch.bool)
    previous = 0
    for window in windows:
        assert previous <= window.start < window.stop <= num_samples
        assert window.stop - window.start <= PIECE_SAMPLES
        previous = window.stop
        first, last = window.start // VAD_FRAME_SAMPLES, -(-window.stop // VAD_FRAME_SAMPLES)
        assert speech[first:last].any()
        covered[first:last] = True
    assert not (speech & ~covered).any()


@settings(max_examples=25, deadline=None)
@given(values=STRETCHES, block=st.integers(5_000, 400_000), cut_off=st.integers(0, 511))
def test_streamed_windows_are_those_of_the_whole(
    values: list[float], block: int, cut_off: int
) -> None:
    # Recordings of two seconds or less are heard with silence ahead.
    num_samples = max(0, len(values) * VAD_FRAME_SAMPLES - cut_off)
    if num_samples <= 2 * SAMPLE_RATE:
        return
    samples = torch.arange(num_samples, dtype=torch.float32)

    windows = list(iter_speech_windows(samples.split(block), RecordedDetector(values)))

    assert [window.segment for window in windows] == cut_at_silence(num_samples, values)
    for window in windows:
        assert window.samples[0] == window.start
        assert len(window.samples) == window.segment.stop - window.segment.start


def test_real_recordings_keep_their_speech() -> None:
    for row in read_manifest(EXAMPLES / "manifest.jsonl"):
        samples = load_audio(row.audio_filepath).samples
        windows = list(iter_speech_windows([samples], silero_detector()))
        assert windows, row.audio_filepath
        covered = torch.zeros(len(samples), dtype=torch.bool)
        for window in windows:
            covered[window.start : window.segment.stop] = True
        whole = len(samples) // 320 * 320  # 20 ms at a time
        power = samples[:whole].reshape(-1, 320).square().mean(1)
        inside = covered[:whole].reshape(-1, 320).any(1)
        assert not (~inside & (power > 0.1 * power.max())).any(), row.audio_filepath


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.03])
@pytest.mark.parametrize("name", ["digit_four.wav", "digit_seven.wav"])
def test_short_and_quiet_digits_are_heard(name: str, gain: float) -> None:
    samples = load_audio(EXAMPLES / name).samples
    samples = (gain * samples * 32768).round() / 32768
    assert len(list(iter_speech_windows([samples], silero_detector()))) == 1


def test_long_recording_is_cut_between_sentences() -> None:
    """Eleven sentences with 0.7 s of pure silence between them."""
    samples = load_audio(EXAMPLES / "long_us_female.ogg").samples
    windows = list(iter_speech_windows(samples.split(50_000), silero_detector()))
    assert 3 <= len(windows) <= 6
    for before, after in pairwise(windows):
        pause = samples[before.segment.stop - 1600 : after.start + 1600]
        assert pause.square().mean().sqrt() < 0.02
    segments = speech_segments(samples, silero_detector())
    assert len(segments) >= 11


@pytest.mark.parametrize("duration_s", [0.0, 0.3, 5.0, 40.0])
def test_silence_noise_and_hum_are_not_speech(duration_s: float) -> None:
    length = round(duration_s * SAMPLE_RATE)
    noise = torch.randn(length, generator=torch.manual_seed(3))
    hum = torch.sin(torch.arange(length) * 2 * torch.pi * 50 / SAMPLE_RATE)
    for sound in (
        torch.zeros(length),
        0.1 * hum,
        (noise / 32768).round(),
        (noise * 2 / 32768).round() / 32768,
        0.01 * noise,
        0.2 * noise,
    ):
        assert list(iter_speech_windows([sound], silero_detector())) == []
