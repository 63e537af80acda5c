import dataclasses

import pytest
import torch

from stepaudio.conversation import interleave
from stepaudio.generation.constraint import GivenText, HoldLimit
from stepaudio.generation.sampling import SamplingBatch, SamplingParams, keep_allowed
from stepaudio.text.tokenizer import TextTokenizer

CPU = torch.device("cpu")


def ids_of(ranges: object) -> set[int]:
    return {token for ids in ranges for token in ids}  # type: ignore[attr-defined]


def test_given_text_allows_what_interleaved_speech_has(tokenizer: TextTokenizer) -> None:
    vocab = tokenizer.vocab
    constraint = GivenText((5, 6), vocab)
    answer = [*interleave([5, 6], list(range(12)), vocab), vocab.tts_end]
    codes = set(range(vocab.audio_0, vocab.audio_0 + vocab.num_codes))
    for place, token in enumerate(answer):
        allowed = ids_of(constraint.allowed(answer[:place]))
        assert token in allowed
        if place in (0, 5):
            assert allowed == {token}
        elif place % 5:
            assert allowed == codes
        else:
            assert allowed == {vocab.tts_pad, vocab.tts_end}


def test_only_allowed_tokens_are_chosen() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    allowed = [None, (range(3, 5), range(40, 41)), (range(7, 8),)]
    kept = keep_allowed(logits, allowed)
    assert torch.equal(kept[0], logits[0])
    assert kept[1].isfinite().nonzero()[:, 0].tolist() == [3, 4, 40]
    assert kept[2].isfinite().nonzero()[:, 0].tolist() == [7]
    assert keep_allowed(logits, [None] * 3) is logits
    for params in (SamplingParams(), SamplingParams(temperature=5.0, seed=1)):
        batch = SamplingBatch(3, 50, CPU)
        for slot in range(3):
            batch.assign(slot, params, [])
        seen = [batch.choose(logits, range(3), allowed)[0].tolist() for _ in range(60)]
        assert {ids[1] for ids in seen} <= {3, 4, 40}
        assert {ids[2] for ids in seen} == {7}
    assert len({ids[0] for ids in seen}) > 5
    assert {ids[1] for ids in seen} == {3, 4, 40}


def test_a_constraint_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(temperature=1.0, seed=3)

    def run(num_slots: int) -> list[int]:
        batch = SamplingBatch(num_slots, 50, CPU)
        for slot in range(num_slots):
            batch.assign(slot, params, [])
        allowed = [(range(20, 30),), None][:num_slots]
        rows = logits[:num_slots]
        return [int(batch.choose(rows, range(num_slots), allowed)[0][0]) for _ in range(30)]

    assert run(1) == run(2)


# ---- repetition aware sampling -----------------------------------------------------------------


def drawn(params: SamplingParams, logits: torch.Tensor, first_code_id: int = 0) -> list[int]:
    batch = SamplingBatch(1, logits.shape[1], CPU, first_code_id=first_code_id)
    batch.assign(0, params, [])
    return [int(batch.choose(logits, [0])[0]) for _ in range(40)]


def test_repeated_codes_are_drawn_again_from_all() -> None:
    logits = torch.zeros(1, 20)
    logits[0, 7] = 3.0
    greedy_like = SamplingParams(temperature=1.0, top_p=0.1, seed=5, max_new_tokens=40)
    assert drawn(greedy_like, logits) == [7] * 40
    aware = SamplingParams(
        temperature=1.0, top_p=0.1, seed=5, max_new_tokens=40, repetition_window=10,
        max_repetition=0.3,
    )  # fmt: skip
    ids = drawn(aware, logits)
    assert ids[:3] == [7] * 3
    assert len(set(ids)) > 5
    assert drawn(aware, logits) == ids
    assert drawn(aware, logits, first_code_id=8) == [7] * 40


def test_a_moved_slot_remembers_its_tokens() -> None:
    logits = torch.zeros(1, 20)
    logits[0, 7] = 3.0
    short = SamplingParams(temperature=1.0, top_p=0.1, seed=5, max_new_tokens=40,
                           repetition_window=4, max_repetition=0.25)  # fmt: skip
    long = SamplingParams(temperature=1.0, top_p=0.1, seed=6, max_new_tokens=60,
                          repetition_window=12, max_repetition=0.5)  # fmt: skip
    expected = drawn(short, logits)
    batch = SamplingBatch(3, 20, CPU, first_code_id=0)
    batch.assign(2, short, [])
    got = [int(batch.choose(logits, [2])[0]) for _ in range(10)]
    batch.assign(1, long, [])
    got += [int(batch.choose(logits.expand(2, -1), [1, 2])[0][1]) for _ in range(10)]
    batch.move(2, 0)
    got += [int(batch.choose(logits, [0])[0]) for _ in range(20)]
    assert got == expected


@pytest.mark.parametrize(
    "values", [{"repetition_window": -1}, {"max_repetition": 1.5}, {"max_repetition": -0.1}]
)
def test_wrong_parameters(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SamplingParams(**values)  # type: ignore[arg-type]


# ---- holds ---------------------------------------------------------------------------------------


def test_a_hold_is_left_or_ends_the_speech(tokenizer: TextTokenizer) -> None:
    vocab = tokenizer.vocab
    codes = set(range(vocab.audio_0, vocab.audio_0 + vocab.num_codes))
    hold = HoldLimit(num_codes=6, variety=2, min_speech=12)
    constraint = GivenText((5,), vocab, hold)

    def behind(*spoken: int) -> set[int]:
        """What may follow so many codes; between groups, the mark of the next group."""
        ids = interleave([5], list(spoken), vocab)
        length = len(spoken) + -(-len(spoken) // 4)
        return ids_of(constraint.allowed(ids[:length]))

    banned = {vocab.id_of_code(0), vocab.id_of_code(9)}
    assert behind(1, 2, 9, 0, 9) == codes
    assert behind(9, 0, 0, 9, 9, 0) == codes - banned
    assert behind(9, 0, 0, 9, 9, 1) == codes
    assert behind(1, 9, 0, 0, 9, 0, 0) == codes - banned
    # Too early to be the end, then late enough.
    marks = {vocab.tts_end, vocab.tts_pad}
    assert behind(1, 2, 9, 0, 0, 9, 9, 0) == marks
    assert behind(1, 2, 3, 4, 5, 6, 9, 0, 0, 9, 9, 0) == {vocab.tts_end}
    assert behind(1, 2, 3, 4, 5, 6, 9, 0, 0, 9, 9, 1) == marks


def test_a_hold_of_every_code_is_no_hold(tokenizer: TextTokenizer) -> None:
    vocab = dataclasses.replace(tokenizer.vocab, num_codes=2)
    constraint = GivenText((5,), vocab, HoldLimit(num_codes=4, variety=2, min_speech=99))
    ids = interleave([5], [0, 1, 0, 1, 1], vocab)
    assert ids_of(constraint.allowed(ids[:7])) == {vocab.audio_0, vocab.audio_0 + 1}
