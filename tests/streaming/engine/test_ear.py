"""What a session hears."""

from __future__ import annotations

import numpy as np
import pytest

from stepaudio_streaming.engine.ear import FRAME_SAMPLES, Ear
from stepaudio_streaming.engine.endings import end_of_turn_score
from stepaudio_streaming.events import SpeechStarted, SpeechStopped, TurnDetection


def counted(start_ms: int, ms: int) -> np.ndarray:
    """Sound whose samples say when they were heard, in ms."""
    return (start_ms + np.arange(16 * ms) / 16).astype(np.float32)


def listen(ear: Ear, start_ms: int, ms: int, probability: float) -> list[object]:
    events: list[object] = []
    for at in range(start_ms, start_ms + ms, 20):
        for _ in range(len(ear.append(counted(at, 20))) // FRAME_SAMPLES):
            events += ear.push(probability, bot_speaking=False)
    return events


def test_a_turn_has_its_own_sound_and_some_before() -> None:
    ear = Ear(TurnDetection(prefix_padding_ms=300))
    listen(ear, 0, 2000, 0.0)
    (started,) = listen(ear, 2000, 1000, 0.9)
    (stopped,) = listen(ear, 3000, 600, 0.0)
    assert isinstance(started, SpeechStarted) and isinstance(stopped, SpeechStopped)
    assert abs(started.audio_ms - 1700) <= 32
    sound, _ = ear.commit(stopped.audio_ms)
    assert abs(sound[0] - started.audio_ms) < 0.1
    assert abs(sound[-1] - stopped.audio_ms) < 0.2
    # What came behind the turn belongs to the next one.
    rest, _ = ear.commit(None)
    assert abs(rest[0] - stopped.audio_ms) < 0.1 and abs(rest[-1] - 3600) < 0.1


def test_speech_ends_with_its_last_frame() -> None:
    ear = Ear(TurnDetection())
    listen(ear, 0, 640, 0.9)
    assert ear.is_speaking and ear.silence_ms == 0
    listen(ear, 640, 320, 0.0)
    assert ear.silence_ms == 320 and ear.last_speech_ms == 640


def test_frames_are_cut_from_any_pieces() -> None:
    ear = Ear(None)
    frames = [ear.append(counted(0, 3000)[start : start + 77]) for start in range(0, 48_000, 77)]
    joined = np.concatenate(frames)
    assert len(joined) == 48_000 // 512 * 512
    assert np.array_equal(joined, counted(0, 3000)[: len(joined)])


def test_memory_is_bounded() -> None:
    ear = Ear(None, max_s=2.0)
    for at in range(0, 5000, 100):
        ear.append(counted(at, 100))
    sound = ear.heard()
    assert len(sound) == 32_000 and abs(sound[0] - 3000) < 0.1
    listening = Ear(TurnDetection())
    listen(listening, 0, 11_000, 0.0)
    assert len(listening.heard()) == 160_000


def test_clearing_forgets_the_turn() -> None:
    ear = Ear(TurnDetection())
    listen(ear, 0, 500, 0.9)
    ear.clear()
    assert not ear.is_speaking and len(ear.heard()) == 0


def test_detection_that_begins_later_has_the_same_clock() -> None:
    ear = Ear(None)
    ear.skip(len(ear.append(counted(0, 1600))) // FRAME_SAMPLES)
    ear.configure(TurnDetection(prefix_padding_ms=0))
    (started,) = listen(ear, 1600, 400, 0.9)
    assert isinstance(started, SpeechStarted) and started.audio_ms == 1600


@pytest.mark.parametrize("text", ["what time is it", "turn the light off", "yes", "Thank you."])
def test_whole_sentences_are_finished(text: str) -> None:
    assert end_of_turn_score(text, 160) >= 0.8


@pytest.mark.parametrize("text", ["i would like to see the", "and then um", "because"])
def test_open_sentences_are_not(text: str) -> None:
    assert end_of_turn_score(text, 160) < 0.4
    assert end_of_turn_score(text, 600) < 0.4


def test_a_long_pause_says_more_than_words() -> None:
    assert end_of_turn_score("where are you from", 200) < 0.6 < end_of_turn_score("from", 1000)
    assert end_of_turn_score("", 200) < 0.6
