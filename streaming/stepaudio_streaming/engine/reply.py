"""One answer on its way: the model thinks, then speaks phrase by phrase, and everything is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine.history import Entry, SpokenPhrase
from stepaudio_streaming.engine.parts import (
    Answer,
    Line,
    Mind,
    Question,
    Runner,
    Script,
    SpeechWish,
    Token,
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

    def new_track(self, owner: Any, *, speaks: bool, clock: PlaybackClock | None) -> Track:
        """A track whose results go to `owner`."""
        track = Track(next(self.keys), speaks, clock)
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
    ) -> None:
        self.entry: Entry | None = None
        self.clock = PlaybackClock()
        self.is_over = False
        self.id = response_id
        self._options = options
        self._desk = desk
        self._tell = tell
        self._listener = self.clock if is_heard else None
        self._track: Track | None = None
        self._question = Question(None)
        self._answer = Answer("")
        self._ids: list[int] = []
        self._stream = desk.mind.written()
        self._told = ""
        self._num_tokens = 0
        self._untold_text = self._untold_codes = 0  # tokens that no event has counted
        self._is_cut_off = False
        self._script: Script | None = None
        self._phrases: list[SpokenPhrase] = []
        self._remember: Callable[[Entry], None] = lambda entry: None
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
        self, entries: Sequence[Entry], item_id: str, remember: Callable[[Entry], None]
    ) -> None:
        """Answer a conversation.

        Args:
            entries: all understood.
            item_id: of the answer.
            remember: takes the answer as soon as it is known.
        """
        self._item_id, self._remember = item_id, remember
        try:
            self._question = self._desk.mind.ask(entries, self._options)
        except StepAudioError as error:
            return self.fail(str(error))
        self._tell(OutputStarted(self.id, self._question.usage))
        if self._question.line is None:
            self._understood(Answer(self._question.canned, remembered=False))
        else:
            self._track = self._desk.new_track(self, speaks=False, clock=self._listener)

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
        self._count(token)
        limit = self._options.max_output_tokens
        if limit is not None and self._num_tokens >= limit and not is_last:
            is_last = self._is_cut_off = True
        if self._script is None:
            self._hear_thought(token)
            self._is_cut_off |= token.finish == "length"
            if is_last:
                self._end_track()
                self._understood(self._desk.mind.read(self._question, self._ids))
        return is_last

    def hear_sound(self, track: Track, samples: Samples, now: float) -> None:
        """The track's voice has spoken; behind its last code all is there."""
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

    def fail(self, message: str) -> None:
        """Something went wrong with this answer alone."""
        self._end_track()
        self.is_over = True
        self._tell(OutputFinished(self.id, "failed", error=message))

    def stop(self) -> None:
        """Nothing more of it is wanted."""
        self._end_track()
        if self._told and self.entry is None:
            self.entry = Entry(self._item_id, "assistant", self._told)
            self._remember(self.entry)
        self.is_over = True

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
        if self._options.modality == "text" and not self._question.tools:
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
            self._tell_text(self._stream.flush() if self._told else answer.text)
            return self._finish()
        options = self._options
        wish = SpeechWish(options.voice, speed=options.speed, seed=options.seed or 0)
        try:
            self._script = self._desk.mind.script(answer.text, wish)
        except StepAudioError as error:
            return self.fail(str(error))
        self._next_phrase()

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
        self.is_over = True
        calls = self._answer.calls
        for index, call in enumerate(calls if self._options.parallel_tool_calls else calls[:1]):
            num_tokens = self._untold_text if index == 0 else 0
            self._tell(OutputToolCall(self.id, call.name, call.arguments, num_tokens))
        if self._is_cut_off:
            self._tell(OutputFinished(self.id, "incomplete", "max_output_tokens"))
        else:
            self._tell(OutputFinished(self.id))
