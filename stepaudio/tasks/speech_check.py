"""Whether generated speech can be what was asked for: length, loops, and how sure the model was.

Everything here is a function of audio codes and numbers; 25 codes are a second. The defaults lie
well outside of what the codes of 1800 recorded sentences of five voices show.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stepaudio.audio.frames import CODES_PER_SECOND
from stepaudio.generation.completion import FinishReason

ProblemKind = Literal["silent", "too_short", "too_long", "cut_off", "stuck", "loop", "unsure"]


@dataclass(frozen=True)
class SpeechProblem:
    """What is wrong with a piece of speech.

    Attributes:
        kind: "silent": no sound; "too_short" and "too_long": against its text; "cut_off": the
            limit ended it; "stuck": one sound is held, or few alternate; "loop": something comes
            again and again; "unsure": the model guessed, which sounds like babble.
        detail: the same with numbers.
        severity: how far beyond the limit, from 1 on.
    """

    kind: ProblemKind
    detail: str
    severity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Limits; speech beyond them is a problem.

    Attributes:
        min_ratio: shortest speech, in parts of the expected length.
        max_ratio: longest speech in the same unit.
        slack_s: seconds that speech may be shorter or longer in any case.
        max_run: longest run of one code.
        max_period: longest period of a loop, in codes.
        max_loop: longest stretch, in codes, that repeats what stands a period before.
        window: codes in which the entropy is measured.
        min_entropy: lowest entropy of the codes of a window, in bits.
        max_surprise: highest mean surprise of the codes, in bits, see `mean_surprise`.
    """

    min_ratio: float = 0.5
    max_ratio: float = 2.0
    slack_s: float = 0.3
    max_run: int = 20
    max_period: int = 50
    max_loop: int = 16
    window: int = 50
    min_entropy: float = 3.2
    max_surprise: float = 6.0


def check_speech(
    codes: Sequence[int],
    expected_s: float,
    *,
    finish_reason: FinishReason | None = "stop",
    log_probs: Sequence[float] = (),
    options: CheckOptions | None = None,
) -> tuple[SpeechProblem, ...]:
    """Find what is wrong with a piece of speech.

    Args:
        codes: its audio codes.
        expected_s: how long it should last, in seconds.
        finish_reason: why its generation ended.
        log_probs: log-probability of every code; empty: unknown.
        options: limits.

    Returns:
        The problems, the worst first and one of each kind; none if all is well.
    """
    options = options or CheckOptions()
    if not codes:
        return (SpeechProblem("silent", "it has no audio codes", math.inf),)
    found = [
        _check_length(len(codes) / CODES_PER_SECOND, expected_s, options),
        _check_end(finish_reason, len(codes)),
        _check_run(codes, options),
        _check_loop(codes, options),
        _check_entropy(codes, options),
        _check_surprise(log_probs, options),
    ]
    problems = [problem for problem in found if problem is not None]
    worst_first = sorted(problems, key=lambda problem: -problem.severity)
    kinds = list(dict.fromkeys(problem.kind for problem in worst_first))
    return tuple(next(p for p in worst_first if p.kind == kind) for kind in kinds)


def badness(problems: Sequence[SpeechProblem]) -> float:
    """How bad problems are together: of two attempts, the one with less is kept."""
    return sum(problem.severity for problem in problems)


def longest_run(codes: Sequence[int]) -> int:
    """Length of the longest run of one code."""
    longest, run = 0, 0
    for index, code in enumerate(codes):
        run = run + 1 if index and code == codes[index - 1] else 1
        longest = max(longest, run)
    return longest


def longest_loop(codes: Sequence[int], max_period: int) -> tuple[int, int]:
    """Longest stretch that repeats what stands a fixed number of codes before.

    Runs of one code are not counted, see `longest_run`.

    Args:
        codes: audio codes.
        max_period: largest distance, at least 2.

    Returns:
        Length of the stretch without its first period, and the period; (0, 0) if nothing comes
        twice.
    """
    best = (0, 0)
    held_since = [0] * len(codes)
    for index in range(1, len(codes)):
        same = codes[index] == codes[index - 1]
        held_since[index] = held_since[index - 1] if same else index
    for period in range(2, min(max_period, len(codes) - 1) + 1):
        length = 0
        for index in range(period, len(codes)):
            length = length + 1 if codes[index] == codes[index - period] else 0
            if length > best[0] and held_since[index] > index - period + 1:
                best = (length, period)
    return best


def entropy(codes: Sequence[int]) -> float:
    """Entropy of the distribution of codes, in bits."""
    counts, total = Counter(codes).values(), len(codes)
    return sum(count / total * math.log2(total / count) for count in counts)


def lowest_entropy(codes: Sequence[int], window: int) -> float | None:
    """Lowest entropy of any window, in bits; None if there are fewer codes than a window has."""
    starts = range(0, len(codes) - window + 1, max(window // 10, 1))
    return min((entropy(codes[start : start + window]) for start in starts), default=None)


def mean_surprise(log_probs: Sequence[float]) -> float:
    """Mean of the negative log-probabilities, in bits: about the entropy that sampling saw."""
    return -sum(log_probs) / len(log_probs) / math.log(2) if log_probs else 0.0


def _check_length(seconds: float, expected_s: float, options: CheckOptions) -> SpeechProblem | None:
    detail = f"it lasts {seconds:.1f} s, expected are {expected_s:.1f} s"
    shortest = options.min_ratio * expected_s - options.slack_s
    if seconds < shortest:
        return SpeechProblem("too_short", detail, shortest / seconds)
    longest = options.max_ratio * expected_s + options.slack_s
    if seconds > longest:
        return SpeechProblem("too_long", detail, seconds / longest)
    return None


def _check_end(finish_reason: FinishReason | None, num_codes: int) -> SpeechProblem | None:
    if finish_reason != "length":
        return None
    return SpeechProblem("cut_off", f"its end was not reached within {num_codes} codes", 2.0)


def _check_run(codes: Sequence[int], options: CheckOptions) -> SpeechProblem | None:
    run = longest_run(codes)
    if run <= options.max_run:
        return None
    detail = f"one code is held for {run / CODES_PER_SECOND:.1f} s"
    return SpeechProblem("stuck", detail, run / options.max_run)


def _check_loop(codes: Sequence[int], options: CheckOptions) -> SpeechProblem | None:
    length, period = longest_loop(codes, options.max_period)
    if length <= options.max_loop:
        return None
    times = 1 + length / period
    detail = f"{period / CODES_PER_SECOND:.2f} s come {times:.1f} times one behind the other"
    return SpeechProblem("loop", detail, length / options.max_loop)


def _check_entropy(codes: Sequence[int], options: CheckOptions) -> SpeechProblem | None:
    lowest = lowest_entropy(codes, options.window)
    if lowest is None or lowest >= options.min_entropy:
        return None
    seconds = options.window / CODES_PER_SECOND
    detail = f"{seconds:.0f} s have an entropy of {lowest:.1f} bits only"
    return SpeechProblem("stuck", detail, options.min_entropy / max(lowest, 0.1))


def _check_surprise(log_probs: Sequence[float], options: CheckOptions) -> SpeechProblem | None:
    surprise = mean_surprise(log_probs)
    if surprise <= options.max_surprise:
        return None
    detail = f"its codes have a mean surprise of {surprise:.1f} bits"
    return SpeechProblem("unsure", detail, surprise / options.max_surprise)
