"""Text of an answer while it is generated, and the layout that speech must have."""

from __future__ import annotations

import pytest

from stepaudio.generation.constraint import OneOf, SpeechGroups
from stepaudio.generation.split import AnswerText
from stepaudio.text.tokenizer import TextTokenizer


def shown(tokenizer: TextTokenizer, ids: list[int], mode: str) -> list[str]:
    text = AnswerText(tokenizer, mode)  # type: ignore[arg-type]
    return [*map(text.push, ids), text.flush()]


def speech(tokenizer: TextTokenizer, text: str) -> list[int]:
    """Groups of one text token and four codes."""
    vocab = tokenizer.vocab
    return [
        i for t in tokenizer.encode(text) for i in (t, *range(vocab.audio_0, vocab.audio_0 + 4))
    ]


def test_text_comes_with_its_group_and_ends_with_the_speech(tokenizer: TextTokenizer) -> None:
    vocab = tokenizer.vocab
    ids = [*speech(tokenizer, "the café"), vocab.tts_pad, vocab.audio_pad, vocab.tts_end]
    pieces = shown(tokenizer, [*ids, *tokenizer.encode("unsaid")], "speech")
    assert "".join(pieces) == "the café"
    assert pieces[0] and not any(pieces[1:5])


@pytest.mark.parametrize("mode", ["text", "speech"])
def test_calls_are_never_shown(tokenizer: TextTokenizer, mode: str) -> None:
    # As one token, and spelled by a vocabulary that has none.
    for call in ([tokenizer.encode_special("<tool_call>")], list(b"<tool_call>")):
        spelled = [i for b in call for i in ([b] if len(call) == 1 else tokenizer.encode(chr(b)))]
        ids = [*tokenizer.encode("cat "), *spelled, *tokenizer.encode("function\nclock\n{}")]
        assert "".join(shown(tokenizer, ids, mode)) == "cat "


def test_what_only_begins_like_a_call_is_shown(tokenizer: TextTokenizer) -> None:
    pieces = shown(tokenizer, [*tokenizer.encode("a <to"), *tokenizer.encode("ast>")], "text")
    assert "".join(pieces) == "a <toast>"
    assert "".join(shown(tokenizer, tokenizer.encode("a <tool_"), "text")) == "a <tool_"


def test_speech_has_its_layout_whatever_the_weights_say(tokenizer: TextTokenizer) -> None:
    vocab = tokenizer.vocab
    layout = SpeechGroups(vocab)
    text, code = tokenizer.encode("t")[0], vocab.audio_0

    def may(ids: list[int], token: int) -> bool:
        return any(token in ids_range for ids_range in layout.allowed(ids))

    group = [text, code, code, code, vocab.audio_pad]
    for begun in ([], group, [*group, vocab.tts_pad, *group[1:]]):
        assert may(begun, text) and may(begun, vocab.tts_pad) and may(begun, vocab.tts_end)
        assert may(begun, vocab.eot) and not may(begun, code)
    for place in range(1, 5):
        begun = [*group, *group[:place]]
        assert may(begun, code) and may(begun, vocab.audio_pad) and may(begun, vocab.tts_end)
        assert not may(begun, text) and not may(begun, vocab.eot)
    behind = [*group, vocab.tts_end]
    for begun in (behind, [*behind, text], [*behind, text, text], [vocab.tool_call or 0]):
        assert may(begun, text) and may(begun, vocab.eot) and not may(begun, code)
    for never in (vocab.audio_start, vocab.audio_end, vocab.audio_patch, vocab.tts_start):
        assert not any(may(begun, never) for begun in ([], group, group[:2], behind))


def test_one_of_some_beginnings_then_anything() -> None:
    choice = OneOf(((1, 2, 3), (1, 4)), 10)
    assert choice.allowed([]) == (range(1, 2),)
    assert choice.allowed([1]) == (range(2, 3), range(4, 5))
    assert choice.allowed([1, 2]) == (range(3, 4),)
    assert choice.allowed([1, 4]) == choice.allowed([1, 2, 3, 9]) == (range(10),)
