"""The exact mode: streamed mel equals offline mel, for any arrival of tokens and any batch."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepaudio.errors import AudioTokenError
from stepaudio.models.token2wav.flow import VoicePrompt
from stepaudio.models.token2wav.flow_config import StreamingMode
from stepaudio.models.token2wav.flow_exact import ExactMelDecoder, ExactVoice
from stepaudio.models.token2wav.mel_decoder import mel_decoder
from tests.unit.models.token2wav.flows import (
    BANDS,
    VOCAB,
    random_prompt,
    random_tokens,
    small_flow,
)

TOLERANCE = 5e-5
few = settings(max_examples=6)
arrivals = st.lists(st.integers(0, 17), min_size=1, max_size=7).filter(lambda a: sum(a) > 0)
SCHEDULES = {
    "small first": {},
    "one token": {"first_chunk_tokens": 1, "chunk_tokens": 1, "left_context_tokens": 1},
    "no left context": {"left_context_tokens": 0},
    "growing": {"first_chunk_tokens": 2, "chunk_tokens": 9, "chunk_growth": 1.5},
    "large first": {"first_chunk_tokens": 9, "chunk_tokens": 2, "left_context_tokens": 3},
}


@pytest.fixture(scope="module", params=list(SCHEDULES))
def decoder(request: pytest.FixtureRequest) -> ExactMelDecoder:
    return ExactMelDecoder(small_flow(SCHEDULES[request.param]))


@pytest.fixture(scope="module")
def usual() -> ExactMelDecoder:
    return ExactMelDecoder(small_flow())


@pytest.fixture(scope="module")
def voices(usual: ExactMelDecoder) -> list[ExactVoice]:
    return [usual.prepare(random_prompt(size, seed=size)) for size in (0, 4, 11)]


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max())


def stream(
    decoder: ExactMelDecoder, voice: ExactVoice, tokens: Tensor, sizes: Sequence[int], seed: int = 0
) -> Tensor:
    state = decoder.init_state(voice, seed=seed)
    parts = []
    for i, new in enumerate(tokens.split(list(sizes))):
        [mel], [state] = decoder.step([new], [state], [i == len(sizes) - 1])
        parts.append(mel)
    return torch.cat(parts, dim=-1)


@few
@given(sizes=arrivals, num_prompt=st.sampled_from([0, 1, 8]))
def test_streamed_equals_offline(
    decoder: ExactMelDecoder, sizes: list[int], num_prompt: int
) -> None:
    voice = decoder.prepare(random_prompt(num_prompt))
    tokens = random_tokens(sum(sizes), seed=sum(sizes))
    offline = decoder.generate(tokens, voice)
    assert offline.shape == (BANDS, 2 * len(tokens))
    assert error(stream(decoder, voice, tokens, sizes), offline) < TOLERANCE


@pytest.mark.parametrize("rate", [0.0, 0.7])
def test_a_long_stream_equals_offline(rate: float) -> None:
    decoder = ExactMelDecoder(small_flow(cfg_rate=rate))
    voice, tokens = decoder.prepare(random_prompt(7)), random_tokens(231)
    streamed = stream(decoder, voice, tokens, [33] * 7)
    assert error(streamed, decoder.generate(tokens, voice)) < TOLERANCE


def test_offline_does_not_depend_on_where_its_calls_are_cut(
    usual: ExactMelDecoder, voices: list[ExactVoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens(70)
    whole = usual.generate(tokens, voices[2])
    monkeypatch.setattr("stepaudio.models.token2wav.flow_exact._TOKENS_PER_CALL", 1)
    assert error(usual.generate(tokens, voices[2]), whole) < TOLERANCE


@few
@given(
    sessions=st.lists(st.tuples(arrivals, st.integers(0, 2)), min_size=2, max_size=3),
)
def test_sessions_in_a_batch_equal_single_ones(
    usual: ExactMelDecoder, voices: list[ExactVoice], sessions: list[tuple[list[int], int]]
) -> None:
    tokens = [random_tokens(sum(sizes), seed=i) for i, (sizes, _) in enumerate(sessions)]
    pieces = [list(t.split(sizes)) for t, (sizes, _) in zip(tokens, sessions, strict=True)]
    states = [usual.init_state(voices[v], seed=i) for i, (_, v) in enumerate(sessions)]
    mels: list[list[Tensor]] = [[] for _ in sessions]
    for turn in range(max(map(len, pieces))):
        rows = [i for i, piece in enumerate(pieces) if turn < len(piece)]
        made, advanced = usual.step(
            [pieces[i][turn] for i in rows],
            [states[i] for i in rows],
            [turn == len(pieces[i]) - 1 for i in rows],
        )
        for i, mel, state in zip(rows, made, advanced, strict=True):
            mels[i].append(mel)
            states[i] = state
    for i, (sizes, v) in enumerate(sessions):
        single = stream(usual, voices[v], tokens[i], sizes, seed=i)
        assert error(torch.cat(mels[i], dim=-1), single) < TOLERANCE


def num_bytes(value: object) -> int:
    """Memory that a state keeps alive, that of views included."""
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, tuple):
        return sum(map(num_bytes, value))
    if is_dataclass(value) and not isinstance(value, ExactVoice):
        return sum(num_bytes(getattr(value, f.name)) for f in fields(value))
    return 0


def test_state_does_not_grow(usual: ExactMelDecoder, voices: list[ExactVoice]) -> None:
    pair = [usual.init_state(voice) for voice in voices[:2]]
    sizes = []
    for turn in range(24):
        _, pair = usual.step([random_tokens(7), random_tokens(5)], pair, [False, False])
        sizes.append(max(map(num_bytes, pair)))
        assert all(len(state.pending) < 5 + 2 for state in pair)
        if turn == 5:
            first = sizes[-1]
    assert max(sizes[6:]) <= first * 1.01
    # A session in a batch of two is as large as one alone: no row keeps the other alive.
    alone = usual.init_state(voices[0])
    _, [alone] = usual.step([random_tokens(30)], [alone], [False])
    assert sizes[-1] <= num_bytes(alone) * 1.1


def test_left_context_grows_up_to_its_limit(
    usual: ExactMelDecoder, voices: list[ExactVoice]
) -> None:
    state, sizes = usual.init_state(voices[1]), []
    for count in (5, 5, 5, 5):
        sizes.append([part.shape[2] for part in (*state.encoder.tokens, *state.encoder.frames)])
        _, [state] = usual.step([random_tokens(count)], [state], [False])
    # Chunks of 3 and 5 tokens, of which the last two are only looked ahead to.
    assert sizes == [[0, 0], [3, 6], [6, 12], [6, 12]]


def test_states_are_values(usual: ExactMelDecoder, voices: list[ExactVoice]) -> None:
    state = usual.init_state(voices[1])
    _, [state] = usual.step([random_tokens(11)], [state], [False])
    continuations = [
        usual.step([random_tokens(9, seed=seed)], [state], [True])[0][0] for seed in (1, 2, 1)
    ]
    assert torch.equal(continuations[0], continuations[2])
    assert not torch.equal(continuations[0], continuations[1])


def test_first_chunk_needs_few_tokens(usual: ExactMelDecoder, voices: list[ExactVoice]) -> None:
    state = usual.init_state(voices[1])
    [mel], [state] = usual.step([random_tokens(4)], [state], [False])
    assert mel.shape == (BANDS, 0)
    [mel], [state] = usual.step([random_tokens(1)], [state], [False])  # 3 and 2 of lookahead
    assert mel.shape == (BANDS, 6)
    [mel], _ = usual.step([random_tokens(0)], [state], [True])
    assert mel.shape == (BANDS, 4)


def reach(decoder: ExactMelDecoder, voice: ExactVoice, changed: int) -> list[int]:
    """Frames that depend on one token."""
    tokens = random_tokens(40)
    other = tokens.clone()
    other[changed] = (other[changed] + 1) % VOCAB
    difference = decoder.generate(tokens, voice) - decoder.generate(other, voice)
    return difference.abs().amax(0).gt(1e-6).nonzero().flatten().tolist()


def test_a_token_changes_its_chunk_and_what_looks_ahead_to_it(
    usual: ExactMelDecoder, voices: list[ExactVoice]
) -> None:
    # Chunks are 0-2, 3-7, 8-12, ...; token 8 is in the lookahead of the second one.
    assert reach(usual, voices[1], 8)[0] == 2 * 3
    assert reach(usual, voices[1], 10)[0] == 2 * 8


def test_voice_and_seed_matter(usual: ExactMelDecoder, voices: list[ExactVoice]) -> None:
    tokens = random_tokens(60)
    mel = usual.generate(tokens, voices[1])
    # Up to the last frame: the prompt stays visible.
    assert error(mel[:, -4:], usual.generate(tokens, voices[2])[:, -4:]) > 1e-3
    assert error(mel[:, -4:], usual.generate(tokens, voices[1], seed=7)[:, -4:]) > 1e-3
    assert torch.equal(mel, usual.generate(tokens, voices[1], seed=0))


def test_guidance_rate_changes_the_mel_and_zero_has_no_second_batch() -> None:
    mels = []
    for rate in (0.0, 0.7):
        decoder = ExactMelDecoder(small_flow(cfg_rate=rate))
        voice = decoder.prepare(random_prompt(4))
        [mel], [state] = decoder.step([random_tokens(9)], [decoder.init_state(voice)], [True])
        mels.append(mel)
        for memory in (*voice.estimator, *state.estimator):
            assert memory.parts[0].shape[1] == (2 if rate else 1)
    assert error(*mels) > 1e-2


def test_number_of_steps_and_schedule_matter() -> None:
    mels = []
    for sampler in ({"num_steps": 1}, {"num_steps": 3}, {"num_steps": 3, "schedule": "linear"}):
        decoder = ExactMelDecoder(small_flow(**sampler))
        mels.append(decoder.generate(random_tokens(9), decoder.prepare(random_prompt(4))))
    assert error(mels[0], mels[1]) > 1e-3
    assert error(mels[1], mels[2]) > 1e-3


@pytest.mark.parametrize("mode", ["exact", "reference"])
def test_temperature_scales_the_noise(mode: StreamingMode) -> None:
    """Without noise, speech and prompt are the same for every seed."""
    spread = {}
    for temperature in (0.0, 0.5, 1.0):
        decoder = mel_decoder(small_flow(temperature=temperature), mode)
        voice = decoder.prepare(random_prompt(4))
        mels = [decoder.generate(random_tokens(9), voice, seed=seed) for seed in (1, 2)]
        spread[temperature] = error(*mels)
    assert spread[0.0] == 0 < spread[0.5] < spread[1.0]


def test_bad_input(usual: ExactMelDecoder, voices: list[ExactVoice]) -> None:
    with pytest.raises(AudioTokenError, match="no audio tokens"):
        usual.generate(random_tokens(0), voices[0])
    for wrong in (VOCAB, -1):
        with pytest.raises(AudioTokenError, match=f"{wrong} is outside of the codebook 0 to 49"):
            usual.generate(torch.tensor([3, wrong]), voices[0])
    with pytest.raises(AudioTokenError, match="integers"):
        usual.generate(torch.rand(3), voices[0])
    good = random_prompt(4)
    for prompt in (
        VoicePrompt(good.tokens, good.mel[:, 1:], good.speaker),
        VoicePrompt(good.tokens, good.mel, good.speaker[1:]),
    ):
        with pytest.raises(ValueError, match="must be"):
            usual.prepare(prompt)
    _, [ended] = usual.step([random_tokens(3)], [usual.init_state(voices[0])], [True])
    with pytest.raises(ValueError, match="ended"):
        usual.step([random_tokens(3)], [ended], [False])


def test_an_ended_stream_without_tokens_is_empty(
    usual: ExactMelDecoder, voices: list[ExactVoice]
) -> None:
    [mel], _ = usual.step([random_tokens(0)], [usual.init_state(voices[1])], [True])
    assert mel.shape == (BANDS, 0)
