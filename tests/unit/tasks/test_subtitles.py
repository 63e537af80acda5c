import re

from hypothesis import given
from hypothesis import strategies as st

from stepaudio.tasks.subtitles import CUE_LINES, LINE_CHARACTERS, cues, to_srt, to_vtt
from stepaudio.tasks.transcript import Segment, Word

WORDS = st.text("abcdefgh'<&> ", max_size=300)
TIMES = st.floats(0, 40_000)
SEGMENTS = st.lists(st.builds(Segment, TIMES, TIMES, WORDS), max_size=4)


def test_srt_of_two_segments():
    segments = [Segment(0.0, 1.5, "hello there"), Segment(3661.0004, 3662.9996, "good bye")]
    assert to_srt(segments) == (
        "1\n00:00:00,000 --> 00:00:01,500\nhello there\n"
        "\n"
        "2\n01:01:01,000 --> 01:01:03,000\ngood bye\n"
    )


def test_vtt_of_a_segment():
    segments = [Segment(0.25, 1.0004, "fish & chips <b> -->")]
    assert to_vtt(segments) == (
        "WEBVTT\n\n00:00:00.250 --> 00:00:01.426\nfish &amp; chips &lt;b&gt; --&gt;\n"
    )


def test_silence_gives_no_cues():
    assert to_srt([]) == ""
    assert to_vtt([]) == "WEBVTT\n"
    assert not list(cues([Segment(1.0, 2.0, " ")]))


def test_more_than_a_hundred_hours():
    assert "100:00:00,000 --> 100:00:01,000" in to_srt([Segment(360_000.0, 360_001.0, "late")])


def test_long_segment_is_spread_in_proportion_to_its_characters():
    line = "seven wizards hum odd jazz tunes at midday"  # exactly one line
    assert len(line) == LINE_CHARACTERS
    spread = list(cues([Segment(10.0, 20.0, " ".join([line] * 5))]))
    assert [len(cue.lines) for cue in spread] == [2, 2, 1]
    assert [(cue.start_ms, cue.end_ms) for cue in spread] == [
        (10_000, 14_000),
        (14_000, 18_000),
        (18_000, 20_470),  # as long as 42 characters take to read
    ]


@given(SEGMENTS)
def test_cues_fit_and_keep_the_words(segments):
    found = list(cues(segments))
    assert all(cue.start_ms < cue.end_ms for cue in found)
    assert all(1 <= len(cue.lines) <= CUE_LINES for cue in found)
    assert all(len(line) <= LINE_CHARACTERS for cue in found for line in cue.lines)
    spoken = "".join("".join(segment.text.split()) for segment in segments)
    assert "".join("".join(line.split()) for cue in found for line in cue.lines) == spoken


@given(SEGMENTS)
def test_srt_is_well_formed(segments):
    blocks = to_srt(segments).split("\n\n") if list(cues(segments)) else []
    for number, block in enumerate(blocks, start=1):
        first, times, *lines = block.strip("\n").split("\n")
        assert first == str(number)
        assert re.fullmatch(r"\d\d+:\d\d:\d\d,\d{3} --> \d\d+:\d\d:\d\d,\d{3}", times)
        assert lines


def timed(text: str) -> Segment:
    """A segment whose word n lasts from second 2n to second 2n + 1."""
    words = tuple(Word(w, 2.0 * n, 2.0 * n + 1, 0.5) for n, w in enumerate(text.split()))
    return Segment(0.0, 99.0, text, words)


def test_cues_are_timed_by_their_words():
    text = " ".join(["wonderful"] * 12)
    found = list(cues([timed(text)]))
    assert [len(" ".join(cue.lines).split()) for cue in found] == [8, 4]
    assert [(cue.start_ms, cue.end_ms) for cue in found] == [(0, 15_000), (16_000, 23_000)]


def test_a_cue_stays_until_it_can_be_read_or_the_next_one_comes():
    segments = [Segment(0.0, 0.3, "yes"), Segment(0.8, 1.0, "no"), Segment(9.0, 9.5, "a " * 20)]
    times = [(cue.start_ms, cue.end_ms) for cue in cues(segments)]
    assert times == [(0, 800), (800, 1800), (9000, 10_500)]


def test_two_lines_have_about_the_same_length():
    (cue,) = cues([Segment(0.0, 9.0, "how much of what you say is written on the first line then")])
    assert cue.lines == ("how much of what you say is", "written on the first line then")


def test_punctuation_does_not_take_the_times_away():
    plain = timed("one two")
    segment = Segment(0.0, 99.0, "One two.", plain.words)
    assert [(cue.start_ms, cue.end_ms) for cue in cues([segment])] == [(0, 3000)]


def test_a_word_that_is_broken_over_lines_leaves_the_times_to_the_characters():
    long_word = "x" * (LINE_CHARACTERS * 2 * CUE_LINES)
    first, second = cues([timed(long_word)])
    assert (first.start_ms, first.end_ms, second.end_ms) == (0, 49_500, 99_000)
