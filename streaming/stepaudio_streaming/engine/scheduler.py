"""Which work comes next: pure decisions about what runs in the next step; no torch, no clock.

`schedule` says what to do, the caller does it and tells what came of it with `update`. Lines that
are decoded and voices that speak advance together; prompts and sound of users are taken one piece
at a time between them, as long as everybody who speaks has enough sound ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from stepaudio_streaming.playback import PlaybackClock

CODE_MS = 40.0  # of sound


@dataclass(frozen=True, kw_only=True)
class SchedulePolicy:
    """Constants of the schedule.

    Attributes:
        max_ahead_ms: sound that is made before it is needed.
        slack_ms: a listener who has so much sound ahead can wait: until others' voices want to
            speak too, or while something is understood.
        chore_patience_s: nobody waits longer to be understood.
    """

    max_ahead_ms: float = 2000.0
    slack_ms: float = 600.0
    chore_patience_s: float = 0.3


@dataclass
class Track:
    """One line on its way, from the prompt to its last sound.

    Attributes:
        key: its name.
        speaks: its codes become sound.
        clock: what the listener has of the answer that it belongs to; None: nobody listens.
        memory: conversation that it goes on with: its slot is the one that knows most of that.
        ahead: is only read, and waits until the slot of its memory is free.
        paused: takes part in nothing.
        slot: where it is decoded; None: nowhere yet, or not any more.
        begun: its prompt was read.
        decoded: all tokens are there.
        waiting: codes that are not sound yet.
        num_spoken: codes that are.
    """

    key: int
    speaks: bool
    clock: PlaybackClock | None = None
    memory: int | None = None
    ahead: bool = False
    paused: bool = False
    slot: int | None = None
    begun: bool = False
    decoded: bool = False
    waiting: list[int] = field(default_factory=list)
    num_spoken: int = 0

    @property
    def num_codes(self) -> int:
        """Codes so far."""
        return self.num_spoken + len(self.waiting)

    def ahead_ms(self, now: float) -> float:
        """Sound that was made and not yet heard."""
        return self.unplayed_ms(now) + CODE_MS * len(self.waiting)

    def unplayed_ms(self, now: float) -> float:
        """Sound that was sent and not yet heard."""
        return 0.0 if self.clock is None else self.clock.unplayed_ms(now)


@dataclass
class Chore:
    """Something to be understood.

    Attributes:
        key: its name.
        since: when it came.
        urgent: comes before those that are not.
        paused: takes part in nothing.
    """

    key: int
    since: float
    urgent: bool = True
    paused: bool = False


@dataclass(frozen=True)
class StepPlan:
    """Work of one step.

    Attributes:
        begin: track whose prompt is read.
        decode: tracks that get their next token.
        speak: voices that get their waiting codes.
        chore: what is understood.
        wake_at: without any work: when there will be some, if nothing happens before.
    """

    begin: Track | None = None
    decode: tuple[Track, ...] = ()
    speak: tuple[Track, ...] = ()
    chore: Chore | None = None
    wake_at: float | None = None

    @property
    def is_empty(self) -> bool:
        """There is nothing to do."""
        return not (self.begin or self.decode or self.speak or self.chore)


class Scheduler:
    """Tracks and chores of all sessions.

    Args:
        num_slots: lines decoded together.
        portions: codes of the first pieces of sound; all that follow are like the last of them.
        policy: constants.
    """

    def __init__(
        self,
        num_slots: int,
        *,
        portions: Sequence[int],
        policy: SchedulePolicy | None = None,
    ) -> None:
        self._policy = policy or SchedulePolicy()
        self._portions = list(accumulate(portions)), portions[-1]
        # Those without a memory first, by number, because neighbouring slots are read without a
        # copy; then those whose conversation was silent for the longest time.
        self._free = list(range(num_slots))
        self._memories: dict[int, int] = {}  # slot to the conversation that it knows
        self._tracks: dict[int, Track] = {}
        self._chores: dict[int, Chore] = {}

    @property
    def num_free(self) -> int:
        """Slots that nobody uses."""
        return len(self._free)

    @property
    def chores(self) -> Mapping[int, Chore]:
        """Chores by key, in the order in which they came."""
        return self._chores

    def add(self, track: Track) -> None:
        """A new track."""
        self._tracks[track.key] = track

    def add_chore(self, chore: Chore) -> None:
        """Something new to be understood."""
        self._chores[chore.key] = chore

    def remove(self, key: int) -> int | None:
        """Forget a track or chore; returns the slot that is free now."""
        self._chores.pop(key, None)
        track = self._tracks.pop(key, None)
        return None if track is None else self.release(track)

    def release(self, track: Track) -> int | None:
        """A track needs its slot no longer."""
        slot, track.slot = track.slot, None
        if slot is not None:
            self._give_back(slot)
        return slot

    def forget(self, memory: int) -> None:
        """A conversation is over."""
        for slot in [slot for slot, known in self._memories.items() if known == memory]:
            del self._memories[slot]
            if slot in self._free:
                self._free.remove(slot)
                self._give_back(slot)

    def _give_back(self, slot: int) -> None:
        if slot in self._memories:
            self._free.append(slot)
            return
        plain = [one for one in self._free if one not in self._memories]
        others = [one for one in self._free if one in self._memories]
        self._free = [*sorted([*plain, slot]), *others]

    def schedule(self, now: float) -> StepPlan:
        """Work of the next step; gives a slot to the track that begins."""
        active = [track for track in self._tracks.values() if not track.paused]
        begin = self._to_begin(active)
        # Those whose listeners hear nothing yet have the passes for themselves, as far as the
        # others have enough sound.
        hurry = any(self._is_awaited(track, now) for track in active if track.begun) or (
            begin is not None and self._is_awaited(begin, now)
        )
        limit_ms = self._policy.slack_ms if hurry else self._policy.max_ahead_ms
        decode = tuple(
            track
            for track in active
            if track.begun and not track.decoded and not self._is_ahead(track, now, limit_ms)
        )
        plan = StepPlan(
            begin,
            decode,
            self._to_speak(active, now, hurry),
            self._to_understand(active, now),
        )
        if not plan.is_empty:
            return plan
        return StepPlan(wake_at=self._next_time(active, now))

    def update(self, track: Track, *, code: int | None, decoded: bool) -> None:
        """A track got a token."""
        track.begun = True
        if code is not None and track.speaks:
            track.waiting.append(code)
        track.decoded = decoded

    def spoken(self, track: Track) -> None:
        """The waiting codes of a track were given to its voice."""
        track.num_spoken += len(track.waiting)
        track.waiting = []

    # ---- decisions ---------------------------------------------------------------------------

    def _to_begin(self, active: list[Track]) -> Track | None:
        waiting = [track for track in active if not track.begun]
        # Whoever has nothing to hear yet comes first; those that speak go on from their buffer.
        for track in sorted(waiting, key=self._rank):
            if track.slot is None:
                track.slot = self._take(track)
            if track.slot is not None:
                return track
        return None

    def _take(self, track: Track) -> int | None:
        """Take a free slot for a track; None: there is none for it."""
        known = [slot for slot, memory in self._memories.items() if memory == track.memory]
        wanted = [slot for slot in known if slot in self._free] if track.memory is not None else []
        if not wanted and (not self._free or (track.ahead and known)):
            return None
        slot = wanted[0] if wanted else self._free[0]
        self._free.remove(slot)
        self._memories.pop(slot, None)
        if track.memory is not None:
            for old in known:
                self._memories.pop(old, None)
            self._memories[slot] = track.memory
        return slot

    @staticmethod
    def _rank(track: Track) -> tuple[bool, float]:
        return track.ahead, float("inf") if track.clock is None else track.clock.sent_ms

    @staticmethod
    def _is_ahead(track: Track, now: float, limit_ms: float) -> bool:
        return track.clock is not None and track.speaks and track.ahead_ms(now) >= limit_ms

    @staticmethod
    def _is_awaited(track: Track, now: float) -> bool:
        """Somebody listens, and has nothing to hear before this goes on."""
        return not (track.ahead or track.decoded or track.num_spoken or track.unplayed_ms(now))

    def _to_speak(self, active: list[Track], now: float, hurry: bool) -> tuple[Track, ...]:
        """Voices that speak now: together with others if they can wait."""
        due = tuple(track for track in active if self._wants_to_speak(track))
        if hurry:
            return tuple(t for t in due if t.unplayed_ms(now) < self._policy.slack_ms)
        voices = [track for track in active if track.speaks and track.begun]
        if 2 * len(due) >= len(voices) or any(self._is_urgent(track, now) for track in due):
            return due
        return ()

    def _is_urgent(self, track: Track, now: float) -> bool:
        return track.decoded or track.unplayed_ms(now) < self._policy.slack_ms

    def _wants_to_speak(self, track: Track) -> bool:
        if not track.speaks or not track.begun:
            return False
        return track.decoded or track.num_codes >= self._end_of_portion(track.num_spoken)

    def _end_of_portion(self, num_spoken: int) -> int:
        """Codes that there must be until a voice that has spoken so many goes on."""
        ends, size = self._portions
        for end in ends:
            if end > num_spoken:
                return end
        return ends[-1] + size * ((num_spoken - ends[-1]) // size + 1)

    def _to_understand(self, active: list[Track], now: float) -> Chore | None:
        waiting = [chore for chore in self._chores.values() if not chore.paused]
        if not waiting:
            return None
        chore = min(waiting, key=lambda one: (not one.urgent, one.since))
        heard = [t for t in active if t.clock is not None and t.num_spoken and not t.decoded]
        slack = [track.ahead_ms(now) for track in heard]
        has_slack = min(slack, default=float("inf")) >= self._policy.slack_ms
        if has_slack or now - chore.since >= self._policy.chore_patience_s:
            return chore
        return None

    def _next_time(self, active: list[Track], now: float) -> float | None:
        """When the first of those that are far ahead goes on, or one can wait no longer."""
        policy = self._policy
        begun = [track for track in active if track.begun and not track.decoded]
        waits = [track.ahead_ms(now) - policy.max_ahead_ms for track in begun]
        due = [track for track in begun if self._wants_to_speak(track)]
        waits += [track.unplayed_ms(now) - policy.slack_ms for track in due]
        chores = [chore for chore in self._chores.values() if not chore.paused]
        waits += [1000 * (one.since + policy.chore_patience_s - now) for one in chores]
        return now + max(0.0, min(waits)) / 1000 + 0.001 if waits else None
