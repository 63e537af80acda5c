"""Figures and punctuation in transcripts."""

from stepaudio.tasks.transcript import Segment, Transcript, Word
from stepaudio.tasks.written_form import WrittenForm


def transcript(*texts: str) -> Transcript:
    segments = tuple(Segment(float(n), n + 1.0, text) for n, text in enumerate(texts))
    return Transcript(" ".join(texts), segments, 9.0)


def test_nothing_is_done_unless_it_is_wanted():
    plain = transcript("i have twenty five")
    assert WrittenForm().apply(plain) is plain
    assert not WrittenForm()


def test_figures():
    done = WrittenForm(figures=True).apply(transcript("i have twenty five", "or ten"))
    assert done.text == "i have 25 or 10"
    assert [segment.text for segment in done.segments] == ["i have 25", "or 10"]


def test_sentences_begin_with_a_capital_and_end():
    done = WrittenForm(punctuation=True).apply(
        transcript("i think i'm late", "what is it", "are you there", "what a day in march", "")
    )
    assert done.text == "I think I'm late. What is it? Are you there? What a day in march."


def test_both():
    done = WrittenForm(True, True).apply(transcript("it is nine fifteen p m", "twenty two came"))
    assert done.text == "It is 9:15 p.m. 22 came."


def test_pauses_end_sentences_where_the_times_of_words_are_known():
    starts = [0.0, 0.3, 0.6, 2.0, 2.3, 2.6, 4.0]
    texts = "we came home then we slept well".split()
    words = tuple(Word(t, s, s + 0.2, 0.9) for t, s in zip(texts, starts, strict=True))
    segment = Segment(0.0, 5.0, " ".join(texts), words)
    done = WrittenForm(punctuation=True).apply(Transcript(segment.text, (segment,), 5.0))
    # The last pause would leave a sentence of one word.
    assert done.text == "We came home. Then we slept well."
    assert done.segments[0].words == words
