import pytest

from stepaudio.tasks.speech_style import read_style

KNOWN = {"slowly": 1.3, "quickly": 0.8, "cheerful": 1.0}


@pytest.mark.parametrize(
    ("instruction", "used", "ignored", "length"),
    [
        (None, (), (), 1.0),
        ("  ", (), (), 1.0),
        ("slowly", ("slowly",), (), 1.3),
        ("Please speak SLOWER, in a cheerful tone.", ("slowly", "cheerful"), (), 1.3),
        ("slow, slowly", ("slowly",), (), 1.3),
        ("fast, sad and angry", ("quickly",), ("sad", "angry"), 0.8),
        ("slowly, but fast", ("slowly",), ("but", "fast"), 1.3),
        ("very slowly", ("slowly",), ("very",), 1.3),
        ("wütend, 生气", (), ("wütend", "生气"), 1.0),
    ],
)
def test_words_that_a_model_knows(
    instruction: str | None, used: tuple[str, ...], ignored: tuple[str, ...], length: float
) -> None:
    style = read_style(instruction, KNOWN)
    assert (style.used, style.ignored, style.length) == (used, ignored, length)
    assert (style.warning is None) is (not ignored)


def test_the_warning_says_what_is_known() -> None:
    warning = read_style("fast, sad", KNOWN).warning
    assert warning == (
        "instruction: ignored sad; used quickly; known are cheerful, quickly, slowly"
    )
    assert read_style("sad", {}).warning == "instruction: ignored sad; used none; known are none"


def test_a_model_that_takes_any_text() -> None:
    style = read_style(" with a  smile ", None)
    assert (style.used, style.ignored, style.warning) == (("with a smile",), (), None)
    assert read_style(None, None).used == ()
