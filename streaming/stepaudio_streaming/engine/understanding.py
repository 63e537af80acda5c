"""What the users of one session have said, on its way to being understood; while they speak."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepaudio.errors import StepAudioError
from stepaudio_streaming.engine.dictation import Dictation
from stepaudio_streaming.engine.ear import MAX_ENDED, Ear
from stepaudio_streaming.engine.endings import end_of_turn_score
from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.engine.parts import Heard
from stepaudio_streaming.engine.reply import Desk
from stepaudio_streaming.engine.scheduler import Chore
from stepaudio_streaming.events import INPUT_RATE, Event, Samples, UserTranscript

# A pause this long may be the end of a turn: what was said is understood ahead.
_DRAFT_PAUSE_MS = 128
_MAX_HEARINGS = 16
# Sound that the model hears itself is given to it in pieces while the user speaks.
_PIECE_S = 4.0
_CUT_WITHIN_S = 1.0  # a piece ends where it is most quiet in its last second
_CUT_FRAME = INPUT_RATE // 50


@dataclass
class Hearing:
    """Sound that is being understood.

    Attributes:
        work: does a piece of it with every step.
        speech_end_ms: where the user's speech ended in it.
        num_samples: of a piece of a turn that goes on; 0: it is no such piece.
        before: pieces of the same turn that were understood before.
        entry: what it becomes; None: the turn may not be over.
        tells: the transcript is an event.
        text: transcript so far.
        result: what it was.
        is_done: the result is the last one.
    """

    work: Iterator[Heard]
    speech_end_ms: int = 0
    num_samples: int = 0
    before: tuple[Any, ...] = ()
    entry: Entry | None = None
    tells: bool = False
    text: str = ""
    result: Heard | None = None
    is_done: bool = False

    @property
    def sounds(self) -> tuple[Any, ...]:
        """What the model hears of the turn."""
        return self.before if self.result is None else (*self.before, *self.result.sounds)


@dataclass
class _Turn:
    """What is known of a turn: pieces of it, and what it is if it is over now."""

    sounds: tuple[Any, ...] = ()
    num_samples: int = 0  # from its beginning, in `sounds`
    piece: int | None = None  # key of the hearing of the next piece
    draft: int | None = None  # key of the hearing of the rest


@dataclass
class Understanding:
    """Hearings of one session.

    Args:
        desk: shared by all sessions.
        tell: takes events.
        progress: called when something is understood, or more of a turn that goes on.
    """

    desk: Desk
    tell: Callable[[Event], None]
    progress: Callable[[], None]
    _hearings: dict[int, Hearing] = field(default_factory=dict)
    _dictations: set[Dictation] = field(default_factory=set)
    _turn: _Turn = field(default_factory=_Turn)
    _ended: deque[tuple[int, _Turn]] = field(default_factory=deque)
    _is_paused: bool = False

    @property
    def is_overloaded(self) -> bool:
        """There is too much to be understood already."""
        return len(self._hearings) + len(self._dictations) >= _MAX_HEARINGS

    @property
    def heard_so_far(self) -> tuple[Any, ...]:
        """What the model can hear of the turn that goes on, where it hears sound itself."""
        draft = self._turn.draft
        return self._turn.sounds if draft is None else self._hearings[draft].sounds

    def score(self, silence_ms: int) -> float | None:
        """Probability that the user has finished, as soon as it is known what was said."""
        draft = self._turn.draft
        result = None if draft is None else self._hearings[draft].result
        if result is None or self.desk.mind.hears_sound:
            return None
        return end_of_turn_score(result.text, silence_ms)

    def pause(self, paused: bool) -> None:
        """Wait, or go on."""
        self._is_paused = paused
        for key in self._hearings:
            chore = self.desk.scheduler.chores.get(key)
            if chore is not None:
                chore.paused = paused
        for dictation in self._dictations:
            dictation.pause(paused)

    def close(self) -> None:
        """Forget everything."""
        for key in list(self._hearings):
            self.desk.drop(key)
        for dictation in self._dictations:
            dictation.stop()
        self._hearings.clear()
        self._dictations.clear()

    # ---- a turn that goes on -----------------------------------------------------------------

    def listen(self, ear: Ear, now: float) -> None:
        """More was heard: understand what can be understood before the turn is over."""
        turn = self._turn
        draft = None if turn.draft is None else self._hearings[turn.draft]
        if draft is not None and draft.speech_end_ms != ear.last_speech_ms:
            self._drop_draft()
            draft = None
        if ear.detects_turns and not ear.is_speaking:
            return
        if turn.piece is None and draft is None and self.desk.mind.hears_sound:
            self._begin_piece(ear, now)
        pauses = ear.is_speaking and ear.silence_ms >= _DRAFT_PAUSE_MS
        if pauses and turn.draft is None and turn.piece is None:
            sound = ear.heard_so_far()[turn.num_samples :]
            hearing = Hearing(self.desk.runner.hear(sound), ear.last_speech_ms, 0, turn.sounds)
            turn.draft = self._begin(hearing, now, urgent=ear.wants_score)

    def _begin_piece(self, ear: Ear, now: float) -> None:
        turn = self._turn
        size = int(_PIECE_S * INPUT_RATE)
        if ear.num_turn_samples - turn.num_samples < size:
            return
        sound = ear.heard_so_far()[turn.num_samples : turn.num_samples + size]
        sound = sound[: _quiet_place(sound)]
        hearing = Hearing(self.desk.runner.hear(sound), num_samples=len(sound))
        turn.piece = self._begin(hearing, now, urgent=False)

    def clear(self) -> None:
        """What was heard of the turn is forgotten."""
        self._forget(self._turn)
        self._turn = _Turn()
        self._forget_ended()

    def end_turn(self, end_ms: int) -> None:
        """The turn is over; it will be committed by its end, and another one may begin before."""
        self._ended.append((end_ms, self._turn))
        self._turn = _Turn()
        if len(self._ended) > MAX_ENDED:
            self._forget(self._ended.popleft()[1])

    def commit(
        self, entry: Entry, sound: Samples, end_ms: int | None, ear: Ear, now: float, *, tells: bool
    ) -> None:
        """A turn has become an entry.

        Args:
            entry: what it becomes.
            sound: all of it.
            end_ms: where it ends, if the end was detected.
            ear: has heard it.
            now: the time.
            tells: its transcript is an event.
        """
        turn = self._taken(end_ms, ear)
        key, turn.draft = turn.draft, None
        if turn.piece is not None:  # all that is not yet understood is one hearing
            self._end(turn.piece)
        if key is None:
            rest = sound[turn.num_samples :]
            key = self._begin(Hearing(self.desk.runner.hear(rest), before=turn.sounds), now)
        hearing = self._hearings[key]
        hearing.entry, hearing.tells = entry, tells
        if hearing.is_done:
            self._understood(key, hearing)
        else:
            self.desk.scheduler.chores[key].urgent = True

    def _taken(self, end_ms: int | None, ear: Ear) -> _Turn:
        """Take out the turn that ends there."""
        if end_ms is None:
            self._forget_ended()
        while self._ended:
            known_ms, turn = self._ended.popleft()
            if known_ms == end_ms:
                return turn
            self._forget(turn)
        if self._turn.draft is not None:
            if self._hearings[self._turn.draft].speech_end_ms != ear.last_speech_ms:
                self._drop_draft()
        turn, self._turn = self._turn, _Turn()
        return turn

    def _forget_ended(self) -> None:
        while self._ended:
            self._forget(self._ended.popleft()[1])

    def _forget(self, turn: _Turn) -> None:
        for key in (turn.draft, turn.piece):
            if key is not None:
                self._end(key)

    def _drop_draft(self) -> None:
        if self._turn.draft is not None:
            self._end(self._turn.draft)
            self._turn.draft = None

    # ---- other sound -------------------------------------------------------------------------

    def hear_item(self, entry: Entry, sounds: Sequence[Samples], now: float) -> None:
        """Understand the sound of an item that the client has created."""
        written, entry.text = entry.text or "", None
        work = self.desk.runner.hear(np.concatenate(sounds))
        self._begin(Hearing(_behind(work, written), entry=entry), now)

    # ---- work --------------------------------------------------------------------------------

    def _begin(self, hearing: Hearing, now: float, *, urgent: bool = True) -> int:
        key = next(self.desk.keys)
        self._hearings[key] = hearing
        self.desk.owners[key] = self
        self.desk.scheduler.add_chore(Chore(key, now, urgent, self._is_paused))
        return key

    def _end(self, key: int) -> None:
        del self._hearings[key]
        self.desk.drop(key)

    def work(self, key: int) -> None:
        """Understand the next piece of a stretch of sound."""
        hearing = self._hearings[key]
        try:
            heard = next(hearing.work, None)
        except StepAudioError as error:
            return self.give_up(key, str(error))
        if heard is not None:
            if hearing.entry is not None and hearing.tells and heard.text:
                new = heard.text.removeprefix(hearing.text)
                self.tell(UserTranscript(hearing.entry.item_id, new))
                hearing.text = heard.text
            hearing.result = heard
            return
        hearing.result, hearing.is_done = hearing.result or Heard("", understood=False), True
        self.desk.drop(key)
        if hearing.entry is not None:
            return self._understood(key, hearing)
        for turn in (self._turn, *(turn for _, turn in self._ended)):
            if key == turn.piece:
                turn.sounds = (*turn.sounds, *hearing.sounds)
                turn.num_samples += hearing.num_samples
                turn.piece = None
                del self._hearings[key]
        self.progress()

    def _understood(self, key: int, hearing: Hearing) -> None:
        entry, heard = hearing.entry, hearing.result
        assert entry is not None and heard is not None
        entry.text, entry.understood = heard.text, heard.understood
        entry.num_audio, entry.sounds = heard.num_tokens, hearing.sounds
        del self._hearings[key]
        if hearing.tells and self.desk.mind.hears_sound:
            self._dictate(entry)
        elif hearing.tells:
            new = heard.text.removeprefix(hearing.text)
            if new:
                self.tell(UserTranscript(entry.item_id, new))
            self.tell(UserTranscript(entry.item_id, heard.text, final=True))
        self.progress()

    def _dictate(self, entry: Entry) -> None:
        dictation = Dictation(entry, self.desk, self.tell, self._dictations.discard)
        self._dictations.add(dictation)
        dictation.begin()
        dictation.pause(self._is_paused)

    def give_up(self, key: int, error: str) -> None:
        """A stretch of sound cannot be understood."""
        hearing = self._hearings[key]
        self._end(key)
        if key == self._turn.draft:
            self._turn.draft = None
        if key == self._turn.piece:
            self._turn.piece = None
        for _, turn in self._ended:
            turn.draft = None if turn.draft == key else turn.draft
            turn.piece = None if turn.piece == key else turn.piece
        if hearing.entry is None:
            return
        hearing.entry.text, hearing.entry.understood = "", False
        if hearing.tells:
            self.tell(UserTranscript(hearing.entry.item_id, "", final=True, error=error))
        self.progress()


def _behind(work: Iterator[Heard], written: str) -> Iterator[Heard]:
    """What was heard, with a written text behind it."""
    if not written:
        yield from work
        return
    heard = Heard("", understood=False)
    for piece in work:
        heard = piece
    text = f"{heard.text} {written}".strip()
    yield Heard(text, True, heard.num_tokens, heard.sounds)


def _quiet_place(sound: Samples) -> int:
    """Samples before the most quiet place in the last second of a piece."""
    first = len(sound) - int(_CUT_WITHIN_S * INPUT_RATE)
    frames = sound[first:].reshape(-1, _CUT_FRAME)
    smooth = np.convolve((frames**2).mean(1), np.ones(5) / 5, mode="valid")
    middle = int(smooth.argmin()) + 2
    return first + middle * _CUT_FRAME + _CUT_FRAME // 2
