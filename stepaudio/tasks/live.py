"""Live transcription: text while somebody speaks, each chunk of sound encoded once.

The encoder and the search over words go on chunk by chunk. Text is confirmed as soon as all live
hypotheses of the search agree on it; what follows can then only be appended, because the second
pass chooses among continuations of that text. Everything that a stream remembers is a `LiveState`;
it is bounded by the longest window, however long the stream is.

A model that has no streaming encoder or no word model confirms whole stretches of speech at their
end, and has no partial text.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.live_segments import LIVE_VAD_OPTIONS, LiveWindows
from stepaudio.audio.segmentation import VadOptions
from stepaudio.audio.vad import VAD_FRAME_SAMPLES, VoiceActivityDetector
from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.chunked_hearing import ChunkedHearing, Heard, WholeHearing
from stepaudio.tasks.recognizer import Recognizer
from stepaudio.tasks.transcript import Segment
from stepaudio.text.hotwords import Hotwords

# The detector hears everything at about the same level; it misses quiet speech.
_STRETCH = 5 * VAD_FRAME_SAMPLES  # samples that are listened to together: 160 ms
_PEAK = 0.7
_LOWEST_PEAK = 0.05
_PEAK_DECAY_S = 12.0  # in which the loudest sound so far counts half


@dataclass(frozen=True)
class LiveUpdate:
    """What the latest sound has changed.

    Attributes:
        audio_s: seconds of the stream that were heard.
        confirmed: text that is new and will not change; it continues what was confirmed before in
            the same segment.
        partial: what is likely to follow; each update replaces that of the one before.
        segment: the segment that has ended, with all of its text; None: none has.
        delays_s: of a segment's words, seconds of sound between the end of a word and the update
            that confirmed it; where the model can tell.
        compute_s: seconds that this update took.
    """

    audio_s: float
    confirmed: str = ""
    partial: str = ""
    segment: Segment | None = None
    delays_s: tuple[float, ...] = ()
    compute_s: float = 0.0


@dataclass(frozen=True)
class LiveState:
    """Memory of one stream; a value that `LiveTranscriber.push` takes and returns.

    Attributes:
        vad: state of the detector.
        windows: what is speech.
        peak: level of the sound.
        held: samples that a window may still need, and `first`, the place of the first of them.
        hearing: the open window; None: nobody speaks.
        fed: samples before this one were given to the open window.
        confirmed: words of the open window that are confirmed.
        confirmed_at: seconds of the stream when each of them was.
        partial: the latest partial text.
        pending: samples that wait for others, so that results do not depend on the blocks in which
            sound comes.
        num_samples: samples heard.
        stats: cost so far.
    """

    vad: Any
    windows: LiveWindows
    peak: float = _LOWEST_PEAK
    held: Tensor = field(default_factory=lambda: torch.zeros(0))
    first: int = 0
    hearing: Heard | None = None
    fed: int = 0
    confirmed: tuple[str, ...] = ()
    confirmed_at: tuple[float, ...] = ()
    partial: str = ""
    pending: Tensor = field(default_factory=lambda: torch.zeros(0))
    num_samples: int = 0
    stats: GenerationStats = field(default_factory=GenerationStats)


class LiveTranscriber:
    """Transcribes any number of live streams with one model.

    Args:
        recognizer: the model.
        detector: finds the speech.
        options: when speech begins and ends.
        hotwords: words to expect.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        detector: VoiceActivityDetector[Any],
        options: VadOptions = LIVE_VAD_OPTIONS,
        hotwords: Hotwords | None = None,
    ) -> None:
        self._detector = detector
        self._options = options
        self._hearing: ChunkedHearing | WholeHearing = WholeHearing(recognizer, hotwords)
        if recognizer.can_stream:
            self._hearing = ChunkedHearing(recognizer, hotwords)

    @property
    def has_partials(self) -> bool:
        """Whether text appears before a stretch of speech has ended."""
        return isinstance(self._hearing, ChunkedHearing)

    def start(self) -> LiveState:
        """State of a stream that has heard nothing."""
        return LiveState(self._detector.init_state(), LiveWindows(self._options))

    def push(self, samples: Tensor, state: LiveState) -> tuple[list[LiveUpdate], LiveState]:
        """Hear more of a stream.

        Args:
            samples: float32 [samples] at 16 kHz, any number.
            state: state returned by the previous call.

        Returns:
            What has changed, if anything, and the new state.

        Raises:
            CapacityError: a stretch of speech does not fit the model.
        """
        waiting = torch.cat([state.pending, samples])
        whole = len(waiting) - len(waiting) % _STRETCH
        updates: list[LiveUpdate] = []
        for stretch in waiting[:whole].split(_STRETCH):
            if len(stretch):
                new, state = self._listen(stretch, state, last=False)
                updates += new
        return updates, replace(state, pending=waiting[whole:].clone())

    def finish(self, state: LiveState) -> tuple[list[LiveUpdate], LiveState]:
        """The stream has ended: confirm what is left; the last state has the cost of all."""
        return self._listen(state.pending, state, last=True)

    def transcribe(self, blocks: Iterable[Tensor]) -> Iterator[LiveUpdate]:
        """Updates of a whole stream, as soon as its blocks (float32 [samples]) come."""
        state = self.start()
        for block in blocks:
            updates, state = self.push(block, state)
            yield from updates
        yield from self.finish(state)[0]

    @torch.inference_mode()
    def _listen(
        self, samples: Tensor, state: LiveState, *, last: bool
    ) -> tuple[list[LiveUpdate], LiveState]:
        started = time.perf_counter()
        peak = state.peak * 0.5 ** (len(samples) / SAMPLE_RATE / _PEAK_DECAY_S)
        loudest = float(samples.abs().max()) if len(samples) else 0.0
        peak = max(loudest, peak, _LOWEST_PEAK)
        probabilities, vad = self._detector.speech_probabilities(
            samples * (_PEAK / peak), state.vad, last=last
        )
        state = replace(
            state,
            vad=vad,
            peak=peak,
            held=torch.cat([state.held, samples]),
            num_samples=state.num_samples + len(samples),
        )
        updates: list[LiveUpdate] = []
        for probability in probabilities.tolist():
            windows, ended = state.windows.push(probability)
            state = replace(state, windows=windows)
            if ended is not None:
                state = self._close(state, ended, updates)
        if last:
            windows, ended = state.windows.finish()
            state = replace(state, windows=windows)
            if ended is not None:
                state = self._close(state, ended, updates)
        elif state.windows.open_from is not None:
            state = self._hear(state, state.windows.open_from, state.windows.ready)
            state = self._note(state, updates)
        return self._timed(updates, started), _forget(state)

    @staticmethod
    def _timed(updates: list[LiveUpdate], started: float) -> list[LiveUpdate]:
        seconds = (time.perf_counter() - started) / max(len(updates), 1)
        return [replace(update, compute_s=seconds) for update in updates]

    def _hear(self, state: LiveState, start: int, stop: int, *, last: bool = False) -> LiveState:
        """Give the open window its samples up to a frame."""
        hearing = state.hearing
        fed = state.fed
        if hearing is None:
            hearing, fed = self._hearing.start(), start * VAD_FRAME_SAMPLES
        stop = min(stop * VAD_FRAME_SAMPLES, state.num_samples)
        samples = state.held[fed - state.first : max(stop, fed) - state.first]
        hearing = self._hearing.hear(samples, hearing, last=last)
        return replace(state, hearing=hearing, fed=max(stop, fed))

    def _note(self, state: LiveState, updates: list[LiveUpdate]) -> LiveState:
        """Tell what is new in the open window."""
        assert state.hearing is not None
        certain, likely = self._hearing.words(state.hearing)
        now = state.num_samples / SAMPLE_RATE
        new = certain[len(state.confirmed) :]
        partial = " ".join(likely[len(state.confirmed) + len(new) :])
        if not new and partial == state.partial:
            return state
        updates.append(LiveUpdate(now, " ".join(new), partial))
        return replace(
            state,
            confirmed=(*state.confirmed, *new),
            confirmed_at=(*state.confirmed_at, *[now] * len(new)),
            partial=partial,
        )

    def _close(
        self, state: LiveState, window: tuple[int, int], updates: list[LiveUpdate]
    ) -> LiveState:
        """Confirm the rest of a window that has ended."""
        state = self._hear(state, *window, last=True)
        assert state.hearing is not None
        text, words, stats = self._hearing.finish(state.hearing, state.confirmed)
        start_s = window[0] * VAD_FRAME_SAMPLES / SAMPLE_RATE
        stop_s = min(window[1] * VAD_FRAME_SAMPLES, state.num_samples) / SAMPLE_RATE
        now = state.num_samples / SAMPLE_RATE
        new = text.split()[len(state.confirmed) :]
        if text:
            times = (*state.confirmed_at, *[now] * len(new))
            words = tuple(word.shifted(round(start_s, 3)) for word in words)
            delays = tuple(
                round(max(at - word.end, 0.0), 3) for at, word in zip(times, words, strict=False)
            )
            segment = Segment(round(start_s, 3), round(stop_s, 3), text, words)
            updates.append(LiveUpdate(now, " ".join(new), segment=segment, delays_s=delays))
        elif state.partial:
            updates.append(LiveUpdate(now))
        total = GenerationStats()
        total.add(state.stats)
        total.add(stats)
        return replace(state, hearing=None, confirmed=(), confirmed_at=(), partial="", stats=total)


def _forget(state: LiveState) -> LiveState:
    """Drop the samples that no window needs any more."""
    needed = state.windows.first_needed * VAD_FRAME_SAMPLES
    if state.hearing is not None:
        needed = state.fed
    needed = min(max(needed, state.first), state.first + len(state.held))
    if needed == state.first:
        return state
    return replace(state, held=state.held[needed - state.first :].clone(), first=needed)
