"""Live transcription of real recordings with nano."""

import dataclasses

import pytest
import torch
from torch import Tensor

from stepaudio.audio.io import load_audio
from stepaudio.audio.vad import EnergyDetector
from stepaudio.tasks.asr import Transcriber
from stepaudio.tasks.live import LiveState, LiveTranscriber, LiveUpdate
from stepaudio.text.hotwords import Hotwords
from stepaudio.text.wer import word_error_rate

RATE = 16_000


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def live(transcriber):
    return transcriber.live()


@pytest.fixture(scope="module")
def speech(examples) -> Tensor:
    """Two sentences with silence around them."""
    first, second = (load_audio(examples / f"us_female_{n}.ogg").samples for n in (1, 2))
    pause = torch.zeros(2 * RATE)
    return torch.cat([pause[:RATE], first, pause, second, pause])


@pytest.fixture(scope="module")
def updates(live, speech):
    return list(live.transcribe(speech.split(5120)))


def texts(updates: list[LiveUpdate]) -> list[str]:
    return [update.segment.text for update in updates if update.segment is not None]


def confirmed(updates: list[LiveUpdate]) -> list[str]:
    """Text that was confirmed, segment by segment."""
    found, current = [], []
    for update in updates:
        current += update.confirmed.split()
        if update.segment is not None:
            found.append(" ".join(current))
            current = []
    assert not current
    return found


def test_confirmed_text_is_the_text_of_the_segments(updates):
    assert len(texts(updates)) == 2
    assert confirmed(updates) == texts(updates)


def test_text_appears_while_somebody_speaks(live, updates):
    assert live.has_partials
    end = next(update for update in updates if update.segment is not None)
    before = [update for update in updates[: updates.index(end)] if update.partial]
    assert before and before[0].audio_s < end.segment.end - 1
    assert any(update.confirmed for update in updates if update.audio_s < end.segment.end)


def test_delays_and_words(updates):
    for update in updates:
        if update.segment is None:
            continue
        words = update.segment.words
        assert [word.text for word in words] == update.segment.text.split()
        assert len(update.delays_s) == len(words)
        assert all(0 <= delay < 6 for delay in update.delays_s)
        assert update.segment.start <= words[0].start <= words[-1].end <= update.segment.end + 0.1


def test_the_size_of_the_blocks_does_not_matter(live, speech, updates):
    once = list(live.transcribe([speech]))
    drops = list(live.transcribe(speech.split(700)))
    assert texts(once) == texts(drops) == texts(updates)


def test_it_hears_about_what_the_offline_way_hears(transcriber, updates, examples):
    offline = [transcriber.transcribe(examples / f"us_female_{n}.ogg").text for n in (1, 2)]
    rate = word_error_rate([" ".join(offline)], [" ".join(texts(updates))])
    assert rate.rate < 0.4


def test_streams_do_not_disturb_each_other(live, speech, updates):
    states = [live.start(), live.start()]
    found: list[list[LiveUpdate]] = [[], []]
    for number, block in enumerate(speech.split(5120)):
        for stream, samples in enumerate((block, torch.zeros(5120))):
            new, states[stream] = live.push(samples, states[stream])
            found[stream] += new
        if number == 3:  # a state is a value: pushing to an old one changes nothing
            live.push(torch.randn(5120), states[0])
    found[0] += live.finish(states[0])[0]
    assert texts(found[0]) == texts(updates)
    assert found[1] == live.finish(states[1])[0] == []


def test_hotwords(transcriber, speech):
    # The first word is "crickets"; such a spelling is in no dictionary.
    live = transcriber.live(hotwords=Hotwords(("Kricketts",), 2.0))
    assert texts(list(live.transcribe([speech])))[0].split()[0] == "kricketts"


def size(state: LiveState) -> int:
    """Numbers in all tensors of a state."""

    def count(value: object) -> int:
        if isinstance(value, Tensor):
            return value.numel()
        if dataclasses.is_dataclass(value):
            return sum(count(getattr(value, f.name)) for f in dataclasses.fields(value))
        if isinstance(value, tuple | list):
            return sum(map(count, value))
        return len(value) if isinstance(value, dict) else 0

    return count(state)


def test_an_hour_needs_no_more_memory_than_a_minute(transcriber, speech):
    live = LiveTranscriber(transcriber._recognizer, EnergyDetector())
    state, sizes, segments = live.start(), [], 0
    minute = torch.cat([0.001 * torch.randn(52 * RATE), speech])[: 60 * RATE]
    quiet = 0.001 * torch.randn(60 * RATE)
    for number in range(60):
        for block in (minute if number in (0, 59) else quiet).split(RATE):
            updates, state = live.push(block, state)
            segments += len(texts(updates))
        sizes.append(size(state))
    assert state.num_samples == 3600 * RATE
    assert segments >= 2
    assert max(sizes[1:-1]) < 60_000
    assert sizes[-2] <= sizes[1] + 1000


def test_a_model_without_a_word_model_confirms_whole_stretches(speech):
    greedy = Transcriber.from_pretrained("nano", device="cpu", decoding="greedy").live()
    assert not greedy.has_partials
    found = list(greedy.transcribe(speech.split(5120)))
    assert len(found) == len(texts(found)) == 2
    assert [update.confirmed for update in found] == texts(found)
