"""All sessions and their steps, without threads: what the engine's thread does, one step a call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from stepaudio.errors import CapacityError, StepAudioError
from stepaudio_streaming.engine.parts import Line, Mind, Runner, Token
from stepaudio_streaming.engine.reply import Desk
from stepaudio_streaming.engine.scheduler import (
    Chore,
    SchedulePolicy,
    Scheduler,
    StepPlan,
    Track,
)
from stepaudio_streaming.engine.session import Say, Session
from stepaudio_streaming.engine.understanding import Understanding
from stepaudio_streaming.events import Command, Configure, Event, Samples

_log = logging.getLogger(__name__)

_FAILED = "The engine had an error while it made this answer."


class Owner(Protocol):
    """Whoever is told what becomes of a track."""

    @property
    def line(self) -> Line:
        """What the track continues."""
        ...

    def hear_token(self, track: Track, token: Token) -> bool:
        """The track got a token; returns whether it is the last one."""
        ...

    def hear_sound(self, track: Track, samples: Samples, now: float) -> None:
        """The track's voice has spoken; behind its last code all is there."""
        ...

    def fail(self, message: str) -> None:
        """Something went wrong with this track alone."""
        ...


class EngineCore:
    """Sessions by number.

    Args:
        runner: the model's passes.
        mind: conversations to prompts and back.
        max_sessions: at once.
        policy: of the schedule.
        max_turn_s: sound of one turn of a user.
    """

    def __init__(
        self,
        runner: Runner,
        mind: Mind,
        *,
        max_sessions: int,
        policy: SchedulePolicy | None = None,
        max_turn_s: float = 900.0,
    ) -> None:
        self._runner = runner
        self._scheduler = Scheduler(
            runner.num_slots,
            portions=runner.portions,
            policy=policy,
        )
        self._desk = Desk(runner, mind, self._scheduler)
        self._max_sessions = max_sessions
        self._max_turn_s = max_turn_s
        self._sessions: dict[int, Session] = {}

    @property
    def num_sessions(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    @property
    def num_free_slots(self) -> int:
        """Slots without a line."""
        return self._scheduler.num_free

    def open(self, number: int, settings: Configure, tell: Callable[[Event], None]) -> None:
        """Begin a session.

        Args:
            number: its name.
            settings: at the beginning.
            tell: takes its events.

        Raises:
            CapacityError: there are too many.
        """
        if len(self._sessions) >= self._max_sessions:
            raise CapacityError(f"all {self._max_sessions} sessions of the engine are taken")
        self._sessions[number] = Session(settings, self._desk, tell, max_turn_s=self._max_turn_s)

    def close(self, number: int) -> None:
        """End a session and free what it has; an unknown one has ended already."""
        session = self._sessions.pop(number, None)
        if session is not None:
            session.close()

    @property
    def runner(self) -> Runner:
        """The model's passes."""
        return self._runner

    def heard_until(self, number: int) -> float:
        """When the user of a session will have heard everything that was said to him."""
        session = self._sessions.get(number)
        return 0.0 if session is None else session.heard_until

    def takes_commands(self, number: int) -> bool:
        """A session is ready for its next command."""
        session = self._sessions.get(number)
        return session is not None and session.takes_commands

    def obey(self, number: int, command: Command | Say, now: float) -> None:
        """Give a session a command.

        Raises:
            Exception: whatever goes wrong; the session cannot go on then.
        """
        self._sessions[number].obey(command, now)

    def block(self, number: int, blocked: bool) -> None:
        """A session's listener takes no more events, or takes them again."""
        session = self._sessions.get(number)
        if session is not None:
            session.block(blocked)

    def step(self, now: float) -> StepPlan:
        """Do what comes next.

        Returns:
            What was done; if nothing, it says when there will be something.
        """
        plan = self._scheduler.schedule(now)
        # Sound first: somebody waits for it.
        if plan.speak:
            self._speak(plan.speak, now)
        if plan.begin is not None:
            self._begin(plan.begin)
        if plan.decode:
            self._decode(plan.decode)
        if plan.chore is not None:
            self._understand(plan.chore)
        return plan

    # ---- work --------------------------------------------------------------------------------

    def _owner(self, track: Track) -> Owner | None:
        """Whose track it is; None: it was dropped in this very step."""
        owner: Owner | None = self._desk.owners.get(track.key)
        return owner

    def _begin(self, track: Track) -> None:
        reply = self._owner(track)
        if reply is None or track.slot is None:
            return
        try:
            token = self._runner.begin(track.slot, reply.line)
        except StepAudioError as error:
            return reply.fail(str(error))
        except Exception:
            _log.exception("reading a prompt failed")
            return reply.fail(_FAILED)
        if token is not None:
            self._tell_token(track, token)

    def _decode(self, tracks: tuple[Track, ...]) -> None:
        ready = [(t, t.slot) for t in tracks if t.slot is not None]
        try:
            tokens = self._runner.decode([slot for _, slot in ready])
        except Exception:
            _log.exception("a step of %d lines failed", len(ready))
            return self._fail([track for track, _ in ready])
        for (track, _), token in zip(ready, tokens, strict=True):
            self._tell_token(track, token)

    def _tell_token(self, track: Track, token: Token) -> None:
        reply = self._owner(track)
        if reply is None:
            return
        try:
            is_last = reply.hear_token(track, token)
        except Exception:
            _log.exception("an answer failed")
            return reply.fail(_FAILED)
        self._scheduler.update(track, code=token.code, decoded=is_last)
        if is_last:
            slot = self._scheduler.release(track)
            if slot is not None:
                self._runner.free(slot)

    def _speak(self, tracks: tuple[Track, ...], now: float) -> None:
        speaking = [track for track in tracks if self._owner(track) is not None]
        codes = {track.key: track.waiting for track in speaking}
        last = frozenset(track.key for track in speaking if track.decoded)
        try:
            sound = self._runner.speak(codes, last)
        except Exception:
            _log.exception("a step of %d voices failed", len(speaking))
            return self._fail(speaking)
        for track in speaking:
            self._scheduler.spoken(track)
            reply = self._owner(track)
            if reply is None:
                continue
            try:
                reply.hear_sound(track, sound[track.key], now)
            except Exception:
                _log.exception("an answer failed")
                reply.fail(_FAILED)

    def _understand(self, chore: Chore) -> None:
        understanding: Understanding = self._desk.owners[chore.key]
        try:
            understanding.work(chore.key)
        except Exception:
            _log.exception("understanding failed")
            understanding.give_up(chore.key, _FAILED)

    def _fail(self, tracks: list[Track]) -> None:
        for track in tracks:
            reply = self._owner(track)
            if reply is not None:
                reply.fail(_FAILED)
