"""Hotwords on real recordings: names that were said are found, others are not."""

import pytest

from stepaudio.errors import ConfigError
from stepaudio.tasks.asr import Transcriber
from stepaudio.text.hotwords import Hotwords

# Nobody says these in the recordings.
UNSAID = (
    "Zelensky, Okonkwo, Priyanka Chopra, Kubernetes, Tolkien, Xiaomi, Szymanski, Reykjavik,"
    " Mozambique, Vladivostok, hydroxychloroquine, Ouagadougou, Popocatepetl, Timbuktu"
)


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def recording(examples):
    return examples / "us_female_1.ogg"  # crickets began to chirp and more geese and ducks ...


@pytest.fixture(scope="module")
def plain(transcriber, recording):
    return transcriber.transcribe(recording).text.split()


def test_a_spelling_that_no_dictionary_has_is_written(transcriber, recording, plain):
    found = transcriber.transcribe(recording, hotwords="Kricketz, geese").text.split()
    assert "kricketz" not in plain
    assert found[0] == "kricketz"
    assert "geese" in found


def test_what_was_not_said_does_not_appear(transcriber, recording, plain):
    found = transcriber.transcribe(recording, hotwords=UNSAID).text.split()
    unsaid = set(UNSAID.lower().replace(",", "").split())
    assert not unsaid & set(found)
    # Others may change a little, because more hypotheses compete.
    assert len(set(found) & set(plain)) >= len(set(plain)) // 2


def test_hotwords_of_a_call_leave_no_trace(transcriber, recording, plain):
    transcriber.transcribe(recording, hotwords=["Kricketz"])
    assert transcriber.transcribe(recording).text.split() == plain
    assert transcriber.transcribe(recording, hotwords=Hotwords(("Kricketz",), 0)).text.split() == (
        plain
    )


def test_a_hotword_that_nano_cannot_hear_is_refused(transcriber, recording):
    with pytest.raises(ConfigError, match="'!!' has no letters"):
        transcriber.transcribe(recording, hotwords=["geese", "!!"])


def test_a_decoder_that_writes_by_itself_writes_nothing_unsaid(examples):
    greedy = Transcriber.from_pretrained("nano", device="cpu", decoding="greedy", hotwords=UNSAID)
    found = greedy.transcribe(examples / "us_female_1.ogg").text.split()
    assert found
    assert not set(UNSAID.lower().replace(",", "").split()) & set(found)
