"""One answer on its way: the model thinks, then speaks phrase by phrase, and everything is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine.history import Entry, History, SpokenPhrase
from stepaudio_streaming.engine.parts import (
    Answer,
    Line,
    Mind,
    Question,
    Runner,
    Script,
    SpeechWish,
    TextStream,
    Token,
    Truncation,
)
from stepaudio_streaming.engine.scheduler import Scheduler, Track
from stepaudio_streaming.events import (
    OUTPUT_RATE,
    Event,
    OutputAudio,
    OutputFinished,
    OutputStarted,
    OutputText,
    OutputToolCall,
    ReplyOptions,
    Samples,
)
from stepaudio_streaming.playback import PlaybackClock


@dataclass
class Desk:
    """What all sessions share; everything on it belongs to the engine's thread.

    Attributes:
        runner: the model's passes.
        mind: conversations to prompts and back.
        scheduler: what comes next.
        owners: who is told what came of a track or chore, by key.
        keys: of tracks and chores.
    """

    runner: Runner
    mind: Mind
    scheduler: Scheduler
    owners: dict[int, Any] = field(default_factory=dict)
    keys: count[int] = field(default_factory=count)

    def new_track(
        self,
        owner: Any,
        *,
        speaks: bool = False,
        clock: PlaybackClock | None = None,
        memory: int | None = None,
        ahead: bool = False,
    ) -> Track:
        """A track whose results go to `owner`; see `Track`."""
        track = Track(next(self.keys), speaks, clock, memory, ahead)
        self.owners[track.key] = owner
        self.scheduler.add(track)
        return track

    def drop(self, key: int) -> None:
        """Forget a track or chore, its slot and its voice."""
        slot = self.scheduler.remove(key)
        if slot is not None:
            self.runner.free(slot)
        self.runner.close_voice(key)
        self.owners.pop(key, None)


class Reply:
    """One answer; it is over when `OutputFinished` has been told, or it was stopped.

    Args:
        response_id: tag of all that is told.
        options: how to answer.
        desk: shared by all sessions.
        tell: takes events.
        is_heard: somebody listens while it is made; otherwise it is made as fast as possible.
        memory: conversation that it belongs to, see `Track`.

    Attributes:
        id: tag of all that is told.
        entry: the answer in the conversation; None: it has none (yet).
        clock: what the listener has of it.
        is_over: nothing follows.
    """

    def __init__(
        self,
        response_id: str,
        options: ReplyOptions,
        desk: Desk,
        tell: Callable[[Event], None],
        *,
        is_heard: bool = True,
        memory: int | None = None,
    ) -> None:
        self.entry: Entry | None = None
        self.clock = PlaybackClock()
        self.is_over = False
        self.id = response_id
        self._options = options
        self._desk = desk
        self._tell = tell
        self._listener = self.clock if is_heard else None
        self._memory = memory
        self._track: Track | None = None
        self._question = Question(None)
        self._answer = Answer("")
        self._ids: list[int] = []
        self._stream: TextStream | None = None
        self._told = ""
        self._has_begun = False
        self._num_tokens = 0
        self._untold_text = self._untold_codes = 0  # tokens that no event has counted
        self._is_cut_off = False
        self._script: Script | None = None
        self._phrases: list[SpokenPhrase] = []
        self._history: History | None = None
        self._item_id = ""

    @property
    def line(self) -> Line:
        """What the current track continues."""
        if self._script is not None:
            return self._script.phrases[len(self._phrases) - 1].line
        assert self._question.line is not None, "canned answers need no track"
        return self._question.line

    def pause(self, paused: bool) -> None:
        """Wait, or go on."""
        if self._track is not None:
            self._track.paused = paused

    # ---- beginnings --------------------------------------------------------------------------

    def answer(
        self,
        entries: Sequence[Entry],
        item_id: str,
        history: History | None,
        truncation: Truncation = "auto",
    ) -> None:
        """Answer a conversation.

        Args:
            entries: all understood.
            item_id: of the answer.
            history: takes the answer as soon as it is known; None: it leaves no trace.
            truncation: what happens when the context is full.
        """
        self._item_id, self._history = item_id, history
        try:
            self._question = question = self._desk.mind.ask(entries, self._options, truncation)
        except StepAudioError as error:
            return self.fail(str(error))
        if history is not None:
            history.forget_oldest(question.num_forgotten)
        self._stream = question.stream
        if question.line is None:
            self._tell(OutputStarted(self.id, question.usage))
            return self._understood(Answer(question.canned, remembered=False))
        self._track = self._desk.new_track(
            self, speaks=self._is_direct, clock=self._listener, memory=self._memory
        )
        if self._is_direct:
            self._desk.runner.open_voice(self._track.key, question.voice, self._options.seed or 0)

    @property
    def _is_direct(self) -> bool:
        """The model speaks while it thinks."""
        return self._question.voice is not None

    def say(self, text: str, wish: SpeechWish) -> None:
        """Speak a given text."""
        try:
            self._script = self._desk.mind.script(text, wish)
        except StepAudioError as error:
            return self.fail(str(error))
        self._next_phrase()

    # ---- what becomes of the track -----------------------------------------------------------

    def hear_token(self, track: Track, token: Token) -> bool:
        """The track got a token; returns whether it is the last one."""
        is_last = token.finish is not None
        if self._script is None and not self._has_begun:
            self._begin(token)
        self._count(token)
        limit = self._options.max_output_tokens
        if limit is not None and self._num_tokens >= limit and not is_last:
            is_last = self._is_cut_off = True
        if self._script is None:
            self._hear_thought(token)
            self._is_cut_off |= token.finish == "length"
            if is_last:
                self._thought()
        return is_last

    def _begin(self, token: Token) -> None:
        """The prompt was read."""
        self._has_begun = True
        text, audio = token.cached
        usage = replace(self._question.usage, cached_text=text, cached_audio=audio)
        self._tell(OutputStarted(self.id, usage))
        if self._is_direct:
            self.entry = Entry(self._item_id, "assistant", "", spoken=True)
            self._remember(self.entry)

    def _thought(self) -> None:
        """The model has written everything."""
        answer = self._desk.mind.read(self._question, self._ids)
        if answer.error:
            return self.fail(answer.error)
        if not self._is_direct:
            self._end_track()
            return self._understood(answer)
        self._answer = answer
        if self._stream is not None:
            self._tell_text(self._stream.flush())
        if self._untold_text and not answer.calls:  # pads and marks
            self._tell(OutputText(self.id, "", self._untold_text))
            self._untold_text = 0

    def hear_sound(self, track: Track, samples: Samples, now: float) -> None:
        """The track's voice has spoken; behind its last code all is there."""
        if self._is_direct:
            return self._hear_direct(track, samples, now)
        phrase = self._phrases[-1]
        if len(samples):
            if not phrase.told:
                phrase.told = True
                self._tell_text(phrase.text)
            self._send(samples, now)
        if not track.decoded:
            return
        phrase.length_ms = self.clock.sent_ms - phrase.start_ms
        self._end_track()
        script = self._script
        if script is None or len(self._phrases) == len(script.phrases) or self._is_cut_off:
            return self._finish()
        pause_s = script.phrases[len(self._phrases) - 1].pause_s
        self._send(np.zeros(round(pause_s * OUTPUT_RATE), np.float32), now)
        self._next_phrase()

    def _hear_direct(self, track: Track, samples: Samples, now: float) -> None:
        if len(samples):
            self._send(samples, now)
        if track.decoded:
            self._end_track()
            self._finish()

    def fail(self, message: str) -> None:
        """Something went wrong with this answer alone."""
        self._end_track()
        self._settle()
        self.is_over = True
        self._tell(OutputFinished(self.id, "failed", error=message))

    def stop(self) -> None:
        """Nothing more of it is wanted."""
        self._end_track()
        self._settle()
        if self._told and self.entry is None:
            self.entry = Entry(self._item_id, "assistant", self._told)
            self._remember(self.entry)
        self.is_over = True

    def _settle(self) -> None:
        """What was said so far is what the conversation keeps."""
        if self._is_direct and self.entry is not None:
            self.entry.text, self.entry.token_ids = self._told, tuple(self._ids)

    def _remember(self, entry: Entry) -> None:
        if self._history is not None:
            self._history.append(entry)

    # ---- steps -------------------------------------------------------------------------------

    def _end_track(self) -> None:
        if self._track is not None:
            self._desk.drop(self._track.key)
            self._track = None

    def _count(self, token: Token) -> None:
        if token.code is not None:
            self._untold_codes += 1
        elif self._script is None and token.finish != "stop":
            self._untold_text += 1
        else:  # the words of what is spoken were counted when they were thought
            return
        self._num_tokens += 1

    def _hear_thought(self, token: Token) -> None:
        if token.finish == "stop":
            return
        self._ids.append(token.id)
        if self._stream is not None:
            self._tell_text(self._stream.push(token.id))

    def _understood(self, answer: Answer) -> None:
        """The model has thought."""
        self._answer = answer
        spoken = self._options.modality == "audio" and bool(answer.text)
        if answer.remembered:
            self.entry = Entry(
                self._item_id,
                "assistant",
                answer.text,
                token_ids=tuple(self._ids),
                spoken=spoken,
                phrases=self._phrases,
            )
            self._remember(self.entry)
        if not spoken:
            self._tell_text(self._rest_of(answer))
            return self._finish()
        options = self._options
        wish = SpeechWish(options.voice, speed=options.speed, seed=options.seed or 0)
        try:
            self._script = self._desk.mind.script(answer.text, wish)
        except StepAudioError as error:
            return self.fail(str(error))
        self._next_phrase()

    def _rest_of(self, answer: Answer) -> str:
        """Text of a written answer that was not told yet."""
        if self._stream is None or not (self._told or answer.remembered):
            return answer.text
        return self._stream.flush()

    def _next_phrase(self) -> None:
        assert self._script is not None
        phrase = self._script.phrases[len(self._phrases)]
        expected_ms = 1000 * phrase.expected_s
        self._phrases.append(SpokenPhrase(phrase.text, self.clock.sent_ms, expected_ms))
        self._track = self._desk.new_track(self, speaks=True, clock=self._listener)
        self._desk.runner.open_voice(self._track.key, self._script.voice, phrase.seed)

    def _tell_text(self, text: str) -> None:
        if not text:
            return
        between = " " if self._told and self._script is not None else ""
        self._told += between + text
        num_tokens, self._untold_text = self._untold_text, 0
        self._tell(OutputText(self.id, between + text, num_tokens))

    def _send(self, samples: Samples, now: float) -> None:
        num_tokens, self._untold_codes = self._untold_codes, 0
        self.clock.send(1000 * len(samples) / OUTPUT_RATE, now)
        self._tell(OutputAudio(self.id, samples, num_tokens))

    def _finish(self) -> None:
        self._settle()
        if self.entry is not None:
            self.entry.is_complete = True
        self.is_over = True
        calls = self._answer.calls
        for index, call in enumerate(calls if self._options.parallel_tool_calls else calls[:1]):
            num_tokens = self._untold_text if index == 0 else 0
            self._tell(OutputToolCall(self.id, call.name, call.arguments, num_tokens))
        if self._is_cut_off:
            self._tell(OutputFinished(self.id, "incomplete", "max_output_tokens"))
        else:
            self._tell(OutputFinished(self.id))
