import math
import random

import pytest

from stepaudio.tasks.speech_check import (
    CheckOptions,
    badness,
    check_speech,
    entropy,
    longest_loop,
    longest_run,
    lowest_entropy,
    mean_surprise,
)

SECOND = 25


def speech(seconds: float, seed: int = 0) -> list[int]:
    """Codes that vary as those of speech do: held for one to three frames, some frequent."""
    rng = random.Random(seed)
    codes: list[int] = []
    while len(codes) < seconds * SECOND:
        codes += [rng.randrange(40) if rng.random() < 0.3 else rng.randrange(729)] * rng.choice(
            [1, 1, 1, 2, 3]
        )
    return codes[: round(seconds * SECOND)]


def kinds(codes: list[int], expected_s: float, **options: object) -> list[str]:
    return [problem.kind for problem in check_speech(codes, expected_s, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("seconds", [0.4, 2.0, 12.0])
def test_speech_of_the_right_length_is_fine(seed: int, seconds: float) -> None:
    codes = speech(seconds, seed)
    assert kinds(codes, seconds, log_probs=[-3.0] * len(codes)) == []
    assert kinds(codes, seconds * 1.5) == []
    assert kinds(codes, seconds / 1.5) == []


def test_length() -> None:
    assert kinds(speech(2), 6.0) == ["too_short"]
    assert kinds(speech(9), 3.0) == ["too_long"]
    assert kinds([], 3.0) == ["silent"]
    # A single short word may take any of its few lengths.
    assert kinds(speech(0.2), 0.8) == []
    (problem,) = check_speech(speech(2), 6.0)
    assert problem.detail == "it lasts 2.0 s, expected are 6.0 s"
    assert badness(check_speech(speech(1), 6.0)) > badness([problem]) > 1
    assert badness(check_speech([], 6.0)) == math.inf


def test_limit() -> None:
    assert kinds(speech(4), 4.0, finish_reason="length") == ["cut_off"]


def test_held_sounds() -> None:
    codes = speech(4)
    assert kinds([*codes, *[7] * 40], 5.6) == ["stuck"]
    assert kinds([*codes, *[7] * 15], 4.6) == []
    rng = random.Random(1)
    few = [*codes, *(rng.randrange(4) for _ in range(60)), *codes]
    assert "stuck" in kinds(few, len(few) / SECOND)


def test_loops() -> None:
    codes = speech(6)
    word = codes[20:35]
    assert kinds([*codes, *word * 4], 8.4) == ["loop"]
    # The same word again is no loop, nor is it a little later.
    assert kinds([*codes, *word, *word], 7.2) == []
    assert kinds([*codes, *word, *speech(1, 5), *word], 8.2) == []
    (problem,) = check_speech([*codes, *word * 4], 8.4)
    assert problem.detail == "0.60 s come 4.0 times one behind the other"


def test_guessing() -> None:
    codes = speech(3)
    assert kinds(codes, 3.0, log_probs=[-6.0] * len(codes)) == ["unsure"]
    assert (
        kinds(codes, 3.0, log_probs=[-6.0] * len(codes), options=CheckOptions(max_surprise=9)) == []
    )


def test_the_worst_comes_first() -> None:
    problems = check_speech([3] * 500, 5.0, finish_reason="length")
    assert [problem.kind for problem in problems[:1]] == ["stuck"]
    assert {problem.kind for problem in problems} == {"stuck", "too_long", "cut_off"}
    severities = [problem.severity for problem in problems]
    assert severities == sorted(severities, reverse=True)


def test_measures() -> None:
    assert longest_run([]) == 0
    assert longest_run([1, 1, 2, 2, 2, 1]) == 3
    assert longest_loop([1, 2, 3, 1, 2, 3, 1], 10) == (4, 3)
    assert longest_loop([1, 2, 3, 4], 10) == (0, 0)
    assert longest_loop([5] * 30, 10) == (0, 0)
    assert longest_loop([1, 2] * 8, 10) == (14, 2)
    assert entropy([1, 1, 2, 2]) == pytest.approx(1.0)
    assert lowest_entropy([1] * 9, 10) is None
    assert lowest_entropy([*range(50), *[1] * 50], 50) == pytest.approx(0.0)
    assert mean_surprise([]) == 0.0
    assert mean_surprise([-math.log(2), -math.log(8)]) == pytest.approx(2.0)
