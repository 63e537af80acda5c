"""Spoken texts on standard output: a line, or one JSON object a line."""

from __future__ import annotations

import json
from typing import Any

from stepaudio.cli.formats import one_line
from stepaudio.tasks.speech_result import SpokenSentence, SpokenText


def render_spoken(spoken: SpokenText, out: str, *, as_json: bool, **about: Any) -> str:
    """One spoken text.

    Args:
        spoken: what was spoken.
        out: file with its sound.
        as_json: one JSON object on one line instead of text.
        **about: further entries of the object; None is left out.
    """
    if not as_json:
        return f"{one_line(out)}: {spoken.duration_s:.2f} s of speech\n"
    values = {name: value for name, value in about.items() if value is not None}
    values |= {"out": out, **spoken_values(spoken)}
    return json.dumps(values, ensure_ascii=False) + "\n"


def spoken_values(spoken: SpokenText) -> dict[str, Any]:
    """A spoken text as JSON values."""
    return {
        "text": spoken.text,
        "duration_s": spoken.duration_s,
        "sample_rate": spoken.sample_rate,
        "style": {"used": list(spoken.style.used), "ignored": list(spoken.style.ignored)},
        "problems": [
            {"sentence": index, "kind": problem.kind, "detail": problem.detail}
            for index, sentence in enumerate(spoken.sentences)
            for problem in sentence.problems
        ],
        "sentences": [_sentence_values(sentence) for sentence in spoken.sentences],
        "stats": spoken.stats.values(),
    }


def _sentence_values(sentence: SpokenSentence) -> dict[str, Any]:
    return {
        "text": sentence.text,
        "start_s": sentence.start_s,
        "attempts": sentence.attempts,
        "seed": sentence.seed,
        "audio_codes": list(sentence.codes),
    }
