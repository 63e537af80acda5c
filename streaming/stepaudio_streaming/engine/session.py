"""One conversation inside the engine: commands in, events out; it lives in the engine's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine.ear import FRAME_SAMPLES, Ear, holds
from stepaudio_streaming.engine.endings import end_of_turn_score
from stepaudio_streaming.engine.history import Entry, History, entry_of
from stepaudio_streaming.engine.parts import Heard, SpeechWish
from stepaudio_streaming.engine.reply import Desk, Reply
from stepaudio_streaming.engine.scheduler import Chore
from stepaudio_streaming.events import (
    AppendAudio,
    CancelResponse,
    ClearAudio,
    Command,
    CommitAudio,
    Configure,
    ContextItem,
    Event,
    InsertItem,
    OutputFinished,
    RemoveItem,
    ReplyOptions,
    Respond,
    TruncateItem,
    UserTranscript,
)
from stepaudio_streaming.turn import TurnEvent

# A pause this long may be the end of a turn: what was said is understood ahead.
_DRAFT_PAUSE_MS = 128
_MAX_HEARINGS = 16


@dataclass(frozen=True)
class Say:
    """Speak a text: a command of the server's own endpoints, beside those of the gateway.

    Attributes:
        response_id: tag of everything that this yields.
        text: what to say.
        wish: how.
    """

    response_id: str
    text: str
    wish: SpeechWish


@dataclass
class Hearing:
    """Sound that is being understood.

    Attributes:
        work: does a piece of it with every step.
        speech_end_ms: where the user's speech ended in it.
        entry: what it becomes; None: the turn may not be over.
        tells: the transcript is an event.
        text: transcript so far.
        result: what it was.
        is_done: the result is the last one.
    """

    work: Iterator[Heard]
    speech_end_ms: int = 0
    entry: Entry | None = None
    tells: bool = False
    text: str = ""
    result: Heard | None = None
    is_done: bool = False


@dataclass
class _Waiting:
    """An answer whose conversation is not yet understood."""

    command: Respond
    reply: Reply
    entries: list[Entry] | None  # None: the conversation


class Session:
    """State of one session.

    Args:
        settings: at the beginning.
        desk: shared by all sessions.
        tell: takes events.
        max_turn_s: sound of a turn.
    """

    def __init__(
        self,
        settings: Configure,
        desk: Desk,
        tell: Callable[[Event], None],
        *,
        max_turn_s: float = 900.0,
    ) -> None:
        self.history = History()
        self._settings = settings
        self._desk = desk
        self._tell = tell
        self._ear = Ear(settings.turn_detection, max_s=max_turn_s)
        self._vad_state: Any = desk.runner.init_vad()
        self._hearings: dict[int, Hearing] = {}
        self._draft: int | None = None  # key of the hearing of a turn that may be over
        self._replies: dict[str, Reply] = {}
        self._waiting: list[_Waiting] = []
        self._speaker: Reply | None = None  # the latest answer of the conversation
        self._is_held = self._is_blocked = False
        self._on_command: Mapping[type[Any], Callable[[Any, float], None]] = {
            Configure: self._configure,
            AppendAudio: self._append,
            CommitAudio: self._commit,
            ClearAudio: self._clear,
            InsertItem: self._insert,
            RemoveItem: self._remove,
            TruncateItem: self._truncate,
            Respond: self._respond,
            CancelResponse: self._cancel,
            Say: self._say,
        }

    @property
    def takes_commands(self) -> bool:
        """There is not too much to be understood already."""
        return len(self._hearings) < _MAX_HEARINGS

    def obey(self, command: Command | Say, now: float) -> None:
        """Take a command."""
        self._on_command[type(command)](command, now)

    def block(self, blocked: bool) -> None:
        """Its listener takes no more events, or takes them again."""
        if blocked != self._is_blocked:
            self._is_blocked = blocked
            self._pause()

    def close(self) -> None:
        """Give back everything."""
        for reply in self._replies.values():
            reply.stop()
        for key in list(self._hearings):
            self._desk.drop(key)
        self._hearings.clear()
        self._replies.clear()

    # ---- the user's sound --------------------------------------------------------------------

    def _configure(self, command: Configure, now: float) -> None:
        had_detection = self._ear.detects_turns
        self._settings = command
        self._tell_turn(self._ear.configure(command.turn_detection))
        if command.turn_detection is not None and not had_detection:
            self._vad_state = self._desk.runner.init_vad()

    def _append(self, command: AppendAudio, now: float) -> None:
        frames = self._ear.append(command.samples)
        num_frames = len(frames) // FRAME_SAMPLES
        if not self._ear.detects_turns:
            return self._ear.skip(num_frames)
        if not num_frames:
            return
        probabilities, self._vad_state = self._desk.runner.speech_probabilities(
            frames, self._vad_state
        )
        for probability in probabilities:
            speaking = self._speaker is not None and self._speaker.clock.unplayed_ms(now) > 0
            score = self._score() if self._ear.wants_score else None
            events = self._ear.push(probability, bot_speaking=speaking, score=score)
            self._tell_turn(events)
            self._think_ahead(now)

    def _tell_turn(self, events: list[TurnEvent]) -> None:
        for event in events:
            self._tell(event)
        held = holds(events)
        if held is not None:
            self._is_held = held
            self._pause()

    def _think_ahead(self, now: float) -> None:
        """Understand a turn before it is certain that it is over."""
        draft = None if self._draft is None else self._hearings[self._draft]
        if draft is not None and draft.speech_end_ms != self._ear.last_speech_ms:
            self._drop_draft()
            draft = None
        if draft is None and self._ear.is_speaking and self._ear.silence_ms >= _DRAFT_PAUSE_MS:
            hearing = Hearing(self._desk.runner.hear(self._ear.heard()), self._ear.last_speech_ms)
            self._draft = self._begin_hearing(hearing, now, urgent=self._ear.wants_score)

    def _score(self) -> float | None:
        """Probability that the user has finished, as soon as it is known what was said."""
        result = None if self._draft is None else self._hearings[self._draft].result
        return None if result is None else end_of_turn_score(result.text, self._ear.silence_ms)

    def _drop_draft(self) -> None:
        if self._draft is not None:
            self._end_hearing(self._draft)
            self._draft = None

    def _clear(self, command: ClearAudio, now: float) -> None:
        self._drop_draft()
        self._tell_turn(self._ear.clear())

    def _commit(self, command: CommitAudio, now: float) -> None:
        sound, events = self._ear.commit(command.end_ms)
        entry = Entry(command.item_id, "user")
        self.history.append(entry)
        tells = self._settings.transcription is not None
        key, self._draft = self._draft, None
        draft = None if key is None else self._hearings[key]
        if key is None or draft is None or draft.speech_end_ms != self._ear.last_speech_ms:
            if key is not None:
                self._end_hearing(key)
            draft = Hearing(self._desk.runner.hear(sound))
            key = self._begin_hearing(draft, now)
        draft.entry, draft.tells = entry, tells
        if draft.is_done:
            self._understood(key, draft)
        else:
            self._desk.scheduler.chores[key].urgent = True
        self._tell_turn(events)

    # ---- understanding -----------------------------------------------------------------------

    def _begin_hearing(self, hearing: Hearing, now: float, *, urgent: bool = True) -> int:
        key = next(self._desk.keys)
        self._hearings[key] = hearing
        self._desk.owners[key] = self
        self._desk.scheduler.add_chore(Chore(key, now, urgent, self._is_blocked))
        return key

    def _end_hearing(self, key: int) -> None:
        del self._hearings[key]
        self._desk.drop(key)

    def work(self, key: int) -> None:
        """Understand the next piece of a stretch of sound."""
        hearing = self._hearings[key]
        try:
            heard = next(hearing.work, None)
        except StepAudioError as error:
            return self.give_up(key, str(error))
        if heard is not None:
            if hearing.entry is not None and hearing.tells:
                new = heard.text.removeprefix(hearing.text)
                self._tell(UserTranscript(hearing.entry.item_id, new))
                hearing.text = heard.text
            hearing.result = heard
            return
        hearing.result, hearing.is_done = hearing.result or Heard("", understood=False), True
        self._desk.drop(key)
        if hearing.entry is not None:
            self._understood(key, hearing)

    def _understood(self, key: int, hearing: Hearing) -> None:
        entry, heard = hearing.entry, hearing.result
        assert entry is not None and heard is not None
        entry.text, entry.understood = heard.text, heard.understood
        entry.num_audio = heard.num_tokens
        if hearing.tells:
            new = heard.text.removeprefix(hearing.text)
            if new:
                self._tell(UserTranscript(entry.item_id, new))
            self._tell(UserTranscript(entry.item_id, heard.text, final=True))
        del self._hearings[key]
        self._begin_replies()

    def give_up(self, key: int, error: str) -> None:
        """A stretch of sound cannot be understood."""
        hearing = self._hearings[key]
        self._end_hearing(key)
        if key == self._draft:
            self._draft = None
        if hearing.entry is None:
            return
        hearing.entry.text, hearing.entry.understood = "", False
        if hearing.tells:
            self._tell(UserTranscript(hearing.entry.item_id, "", final=True, error=error))
        self._begin_replies()

    # ---- conversation ------------------------------------------------------------------------

    def _insert(self, command: InsertItem, now: float) -> None:
        entry = self._entry(command.item, now)
        self.history.insert([entry], command.previous_item_id)

    def _entry(self, item: ContextItem, now: float) -> Entry:
        """Entry of a new item; sound of the user in it is going to be understood."""
        entry = entry_of(item)
        sounds = [part.samples for part in item.parts if part.samples is not None]
        if item.kind == "user" and sounds:
            entry.text, written = None, entry.text or ""
            hearing = Hearing(_behind(self._desk.runner.hear(np.concatenate(sounds)), written))
            hearing.entry = entry
            self._begin_hearing(hearing, now)
        return entry

    def _remove(self, command: RemoveItem, now: float) -> None:
        self.history.remove(command.item_id)

    def _truncate(self, command: TruncateItem, now: float) -> None:
        self.history.cut(command.item_id, command.audio_ms)

    # ---- answers -----------------------------------------------------------------------------

    def _respond(self, command: Respond, now: float) -> None:
        entries: list[Entry] | None = None
        if command.context is not None:
            found = [
                self.history.find(item) if isinstance(item, str) else self._entry(item, now)
                for item in command.context
            ]
            entries = [entry for entry in found if entry is not None]
        reply = self._new_reply(command.response_id, command.options, is_heard=entries is None)
        if entries is None:
            self._speaker = reply
        self._waiting.append(_Waiting(command, reply, entries))
        self._begin_replies()

    def _new_reply(self, response_id: str, options: ReplyOptions, *, is_heard: bool) -> Reply:
        reply = Reply(response_id, options, self._desk, self._told, is_heard=is_heard)
        self._replies[response_id] = reply
        return reply

    def _begin_replies(self) -> None:
        """Begin with the answers to what is understood now."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            in_conversation = one.entries is None
            entries = self.history.entries if one.entries is None else one.entries
            if any(entry.text is None for entry in entries):
                self._waiting.append(one)
                continue
            remember = self.history.append if in_conversation else _forget
            one.reply.answer(list(entries), one.command.item_id, remember)
        self._pause()

    def _told(self, event: Event) -> None:
        if isinstance(event, OutputFinished):
            self._replies.pop(event.response_id, None)
        self._tell(event)

    def _say(self, command: Say, now: float) -> None:
        options = ReplyOptions(voice=command.wish.voice)
        reply = self._new_reply(command.response_id, options, is_heard=False)
        reply.say(command.text, command.wish)
        self._pause()

    def _cancel(self, command: CancelResponse, now: float) -> None:
        self._waiting = [w for w in self._waiting if w.command.response_id != command.response_id]
        reply = self._replies.pop(command.response_id, None) or self._finished(command)
        if reply is None:
            return
        was_silent = reply.clock.sent_ms == 0
        reply.stop()
        reply.clock.stop(now)
        if reply.entry is not None and reply.entry.spoken and was_silent:
            self.history.remove(reply.entry.item_id)
        elif reply.entry is not None:
            self.history.cut(reply.entry.item_id, command.played_ms)

    def _finished(self, command: CancelResponse) -> Reply | None:
        """The engine may have ended an answer that the gateway still waits for."""
        last = self._speaker
        return last if last is not None and last.id == command.response_id else None

    def _pause(self) -> None:
        """Hold back what must wait: the answer while the user may speak, all for a slow reader."""
        for reply in self._replies.values():
            reply.pause(self._is_blocked or (self._is_held and reply is self._speaker))
        for key in self._hearings:
            chore = self._desk.scheduler.chores.get(key)
            if chore is not None:
                chore.paused = self._is_blocked


def _behind(work: Iterator[Heard], written: str) -> Iterator[Heard]:
    """What was heard, with a written text behind it."""
    if not written:
        yield from work
        return
    heard = Heard("", understood=False)
    for piece in work:
        heard = piece
    yield Heard(f"{heard.text} {written}".strip(), True, heard.num_tokens)


def _forget(entry: Entry) -> None:
    """Answers outside of the conversation leave no trace in it."""
