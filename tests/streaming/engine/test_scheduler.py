"""Decisions of the scheduler."""

from __future__ import annotations

from stepaudio_streaming.engine.scheduler import Chore, SchedulePolicy, Scheduler, Track
from stepaudio_streaming.playback import PlaybackClock

POLICY = SchedulePolicy(max_ahead_ms=2000.0, slack_ms=500.0, chore_patience_s=0.3)


def scheduler(num_slots: int = 4) -> Scheduler:
    return Scheduler(num_slots, portions=(4, 10), policy=POLICY)


def speaking(key: int, *, played_ms: float = 0.0, waiting: int = 0, spoken: int = 0) -> Track:
    """A track that has begun; its listener has `played_ms` at time 0."""
    clock = PlaybackClock()
    clock.send(played_ms, 0.0)
    track = Track(key, True, clock, begun=True, slot=key)
    track.waiting, track.num_spoken = [0] * waiting, spoken
    return track


def plan_of(*tracks: Track, now: float = 0.0, chore: Chore | None = None):  # type: ignore[no-untyped-def]
    one = scheduler()
    for track in tracks:
        one.add(track)
    if chore is not None:
        one.add_chore(chore)
    return one.schedule(now)


def test_prompts_are_read_one_at_a_time_the_longest_waiting_listener_first() -> None:
    one = scheduler(num_slots=2)
    later, first, third = (Track(key, True, PlaybackClock()) for key in range(3))
    assert later.clock is not None
    later.clock.send(500.0, 0.0)
    for track in (later, first, third):
        one.add(track)
    order = []
    while (begun := one.schedule(0.0).begin) is not None:
        order.append(begun.key)
        one.update(begun, code=None, decoded=False)
    assert order == [1, 2] and one.num_free == 0
    assert one.remove(2) == 1  # its slot
    assert one.schedule(0.0).begin is later and later.slot == 1


def test_decoding_stops_far_ahead_and_says_when_it_goes_on() -> None:
    near, far = speaking(0, played_ms=1900.0, spoken=50), speaking(1, played_ms=2500.0, spoken=64)
    plan = plan_of(near, far)
    assert plan.decode == (near,)
    plan = plan_of(far)
    assert plan.is_empty and plan.wake_at is not None
    assert abs(plan.wake_at - 0.501) < 1e-9
    assert plan_of(far, now=plan.wake_at).decode == (far,)


def test_waiting_codes_count_as_sound() -> None:
    track = speaking(0, played_ms=1700.0, waiting=8, spoken=40)
    assert track.ahead_ms(0.0) == 2020.0
    assert not plan_of(track).decode


def test_thoughts_are_never_far_ahead() -> None:
    thought = Track(0, False, begun=True, slot=0)
    assert plan_of(thought).decode == (thought,)


def test_voices_speak_from_so_many_codes_on() -> None:
    assert not plan_of(speaking(0, waiting=3)).speak
    assert plan_of(speaking(0, waiting=4)).speak
    assert not plan_of(speaking(0, waiting=9, spoken=4)).speak
    assert plan_of(speaking(0, waiting=10, spoken=4)).speak


def test_portions_grow_and_the_last_repeats() -> None:
    one = Scheduler(1, portions=(4, 6, 10), policy=POLICY)
    track = speaking(0)
    one.add(track)
    ends = []
    for count in range(1, 50):
        one.update(track, code=0, decoded=False)
        if one.schedule(0.0).speak:
            one.spoken(track)
            ends.append(count)
    assert ends == [4, 10, 20, 30, 40]


def test_nobody_else_is_served_while_a_listener_waits() -> None:
    """Those with little sound ahead go on nevertheless."""
    rich = speaking(0, played_ms=1500.0, waiting=10, spoken=64)
    poor = speaking(1, played_ms=300.0, waiting=10, spoken=64)
    assert plan_of(rich, poor).decode == plan_of(rich, poor).speak == (rich, poor)
    thought = Track(2, False, begun=True, slot=2)
    plan = plan_of(rich, poor, thought)
    assert plan.decode == (thought,) and plan.speak == (poor,)
    silent = speaking(3, waiting=3)
    poorer = speaking(4, played_ms=300.0, waiting=4, spoken=64)
    plan = plan_of(rich, poorer, silent)
    assert plan.decode == (poorer, silent) and plan.speak == ()
    for begun in (False, True):
        silent.paused, thought.ahead, thought.begun = True, True, begun
        assert plan_of(rich, poor, silent, thought).speak == (rich, poor)


def test_a_listener_who_has_no_slot_stops_nobody() -> None:
    one = scheduler(num_slots=0)
    rich = speaking(0, played_ms=1500.0, waiting=10, spoken=64)
    for track in (rich, Track(1, False)):
        one.add(track)
    assert one.schedule(0.0).decode == (rich,)


def test_a_voice_that_can_wait_waits_for_the_others() -> None:
    can_wait = speaking(0, played_ms=900.0, waiting=10, spoken=24)
    others = [speaking(key, played_ms=900.0, waiting=5, spoken=24) for key in (1, 2)]
    assert not plan_of(can_wait, *others).speak
    others[0].waiting += [0] * 5
    assert plan_of(can_wait, *others).speak == (can_wait, others[0])
    cannot_wait = speaking(0, played_ms=400.0, waiting=10, spoken=24)
    others[0].waiting = []
    assert plan_of(cannot_wait, *others).speak == (cannot_wait,)


def test_whoever_waits_for_others_is_woken_in_time() -> None:
    far = [speaking(key, played_ms=2500.0, waiting=5, spoken=64) for key in (1, 2)]
    waits = speaking(0, played_ms=1800.0, waiting=10, spoken=64)
    plan = plan_of(waits, *far)
    assert plan.is_empty and plan.wake_at is not None and plan.wake_at < 1.31


def test_the_end_of_a_line_is_spoken_at_once() -> None:
    ended = speaking(0, played_ms=1900.0, waiting=1, spoken=24)
    ended.decoded = True
    assert plan_of(ended).speak == (ended,)
    ended.waiting = []
    assert plan_of(ended).speak == (ended,)


def test_understanding_waits_for_slack_or_patience() -> None:
    tight = speaking(0, played_ms=300.0, waiting=1, spoken=10)
    chore = Chore(9, since=0.0)
    assert plan_of(tight, chore=chore).chore is None
    assert plan_of(tight, chore=chore, now=0.3).chore is chore
    assert plan_of(speaking(0, played_ms=600.0, spoken=10), chore=chore).chore is chore
    assert plan_of(chore=chore).chore is chore


def test_urgent_sound_is_understood_first() -> None:
    one = scheduler()
    draft, turn = Chore(1, since=0.0, urgent=False), Chore(2, since=5.0)
    one.add_chore(draft)
    one.add_chore(turn)
    assert one.schedule(6.0).chore is turn
    one.remove(2)
    assert one.schedule(6.0).chore is draft


def test_who_is_paused_takes_part_in_nothing() -> None:
    track = speaking(0, waiting=10)
    track.paused = True
    chore = Chore(9, since=0.0, paused=True)
    plan = plan_of(track, chore=chore, now=9.0)
    assert plan.is_empty and plan.wake_at is None


def test_conversations_get_the_slot_that_knows_them() -> None:
    one = scheduler(num_slots=3)

    def begin(key: int, **how: object) -> Track | None:
        one.add(Track(key, False, **how))  # type: ignore[arg-type]
        return one.schedule(0.0).begin

    def end(track: Track | None) -> None:
        assert track is not None
        one.update(track, code=None, decoded=True)
        one.remove(track.key)

    known = begin(0, memory=7)
    assert known is not None and known.slot == 0
    one.update(known, code=None, decoded=False)
    ahead = begin(1, memory=7, ahead=True)
    assert ahead is None  # waits for the slot of its conversation
    end(known)
    again = one.schedule(0.0).begin
    assert again is not None and again.slot == 0
    end(again)
    # Others take slots that nobody will miss.
    plain = [begin(2), None]
    one.update(plain[0], code=None, decoded=False)  # type: ignore[arg-type]
    plain[1] = begin(3)
    assert [track.slot for track in plain if track] == [1, 2]
    one.update(plain[1], code=None, decoded=False)  # type: ignore[arg-type]
    last = begin(4)
    assert last is not None and last.slot == 0  # there is no other left
    end(last)
    for track in plain:
        end(track)
    other = begin(5, memory=7)
    assert other is not None and other.slot == 0 and one.num_free == 2
    end(other)
    one.forget(7)
    assert one.num_free == 3


def test_what_is_read_ahead_comes_last() -> None:
    one = scheduler()
    one.add(Track(0, False, ahead=True))
    one.add(Track(1, True, PlaybackClock()))
    begun = one.schedule(0.0).begin
    assert begun is not None and begun.key == 1
