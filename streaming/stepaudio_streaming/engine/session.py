"""One conversation inside the engine: commands in, events out; it lives in the engine's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepaudio_streaming.engine.ear import FRAME_SAMPLES, Ear, holds
from stepaudio_streaming.engine.foresight import Foresight
from stepaudio_streaming.engine.history import Entry, History, entry_of
from stepaudio_streaming.engine.parts import SpeechWish
from stepaudio_streaming.engine.reply import Desk, Reply
from stepaudio_streaming.engine.understanding import Understanding
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
    Samples,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
)
from stepaudio_streaming.turn import TurnEvent


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
        self._expected = settings.reply  # how the next answer will be made, probably
        self._desk = desk
        self._tell = tell
        self._ear = Ear(settings.turn_detection, max_s=max_turn_s)
        self._vad_state: Any = desk.runner.init_vad()
        self._understanding = Understanding(desk, tell, self._understood)
        self._memory = next(desk.keys)
        self._foresight = Foresight(desk, self._memory)
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
    def heard_until(self) -> float:
        """When the user will have heard everything that was said to him."""
        return 0.0 if self._speaker is None else self._speaker.clock.ends_at

    @property
    def takes_commands(self) -> bool:
        """There is not too much to be understood already."""
        return not self._understanding.is_overloaded

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
        self._replies.clear()
        self._understanding.close()
        self._foresight.stop()
        self._desk.scheduler.forget(self._memory)

    # ---- the user's sound --------------------------------------------------------------------

    def _configure(self, command: Configure, now: float) -> None:
        had_detection = self._ear.detects_turns
        self._settings, self._expected = command, command.reply
        if had_detection != (command.turn_detection is not None):
            self._understanding.clear()  # turns begin elsewhere now
        self._tell_turn(self._ear.configure(command.turn_detection))
        if command.turn_detection is not None and not had_detection:
            self._vad_state = self._desk.runner.init_vad()

    def _append(self, command: AppendAudio, now: float) -> None:
        frames = self._ear.append(command.samples)
        num_frames = len(frames) // FRAME_SAMPLES
        if not self._ear.detects_turns:
            self._ear.skip(num_frames)
            return self._understanding.listen(self._ear, now)
        if not num_frames:
            return
        for probability in self._probabilities(command, frames):
            speaking = self._speaker is not None and self._speaker.clock.unplayed_ms(now) > 0
            wants_score = self._ear.wants_score
            score = self._understanding.score(self._ear.silence_ms) if wants_score else None
            events = self._ear.push(probability, bot_speaking=speaking, score=score)
            self._tell_turn(events)
            self._understanding.listen(self._ear, now)

    def _probabilities(self, command: AppendAudio, frames: Samples) -> Sequence[float]:
        if command.probabilities is not None:
            return command.probabilities
        found, self._vad_state = self._desk.runner.speech_probabilities(frames, self._vad_state)
        return found

    def _tell_turn(self, events: list[TurnEvent]) -> None:
        for event in events:
            if isinstance(event, SpeechStopped):
                self._understanding.end_turn(event.audio_ms)
            self._tell(event)
            if isinstance(event, SpeechStarted):
                self._look_ahead()
        held = holds(events)
        if held is not None:
            self._is_held = held
            self._pause()

    def _clear(self, command: ClearAudio, now: float) -> None:
        self._understanding.clear()
        self._tell_turn(self._ear.clear())

    def _commit(self, command: CommitAudio, now: float) -> None:
        sound, events = self._ear.commit(command.end_ms)
        entry = Entry(command.item_id, "user")
        self.history.append(entry)
        tells = self._settings.transcription is not None
        self._understanding.commit(entry, sound, command.end_ms, self._ear, now, tells=tells)
        self._tell_turn(events)

    def _understood(self) -> None:
        self._begin_replies()
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Read what the user has said so far, for the answer that he is going to get."""
        listens = self._ear.is_speaking or not self._ear.detects_turns
        answers = bool(self._waiting) or not (self._speaker is None or self._speaker.is_over)
        # An answer that is being made is not yet what the conversation will have of it.
        if answers or not listens or not self._settings.answers:
            return
        heard = self._understanding.heard_so_far
        entries = self.history.entries
        if any(entry.text is None for entry in entries):
            return
        turn = Entry("", "user", "", sounds=heard)
        self._foresight.read(self._desk.mind.ahead([*entries, turn], self._expected))

    # ---- conversation ------------------------------------------------------------------------

    def _insert(self, command: InsertItem, now: float) -> None:
        entry = self._entry(command.item, now)
        self.history.insert([entry], command.previous_item_id)

    def _entry(self, item: ContextItem, now: float) -> Entry:
        """Entry of a new item; sound of the user in it is going to be understood."""
        entry = entry_of(item)
        sounds = [part.samples for part in item.parts if part.samples is not None]
        if item.kind == "user" and sounds:
            self._understanding.hear_item(entry, sounds, now)
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
            self._speaker, self._expected = reply, command.options
        self._waiting.append(_Waiting(command, reply, entries))
        self._begin_replies()

    def _new_reply(self, response_id: str, options: ReplyOptions, *, is_heard: bool) -> Reply:
        memory = self._memory if is_heard else None
        reply = Reply(
            response_id, options, self._desk, self._told, is_heard=is_heard, memory=memory
        )
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
            history = self.history if in_conversation else None
            if in_conversation:
                self._foresight.stop()
            truncation = self._settings.context
            one.reply.answer(list(entries), one.command.item_id, history, truncation)
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
        self._look_ahead()

    def _finished(self, command: CancelResponse) -> Reply | None:
        """The engine may have ended an answer that the gateway still waits for."""
        last = self._speaker
        return last if last is not None and last.id == command.response_id else None

    def _pause(self) -> None:
        """Hold back what must wait: the answer while the user may speak, all for a slow reader."""
        for reply in self._replies.values():
            reply.pause(self._is_blocked or (self._is_held and reply is self._speaker))
        self._understanding.pause(self._is_blocked)
