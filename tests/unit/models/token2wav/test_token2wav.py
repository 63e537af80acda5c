"""The detokenizer as a whole: streamed sound equals offline sound, sessions equal single ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepaudio.errors import AudioTokenError, ConfigError, VoiceError
from stepaudio.models.token2wav.flow import VoicePrompt
from stepaudio.models.token2wav.flow_exact import ExactVoice
from stepaudio.models.token2wav.folder import save_parts
from stepaudio.models.token2wav.token2wav import SpeechVoice, StreamBatch, Token2Wav
from tests.unit.models.token2wav.flows import BANDS
from tests.unit.models.token2wav.parts import (
    CODEBOOK,
    RATE,
    SAMPLES_PER_TOKEN,
    Kind,
    small_parts,
)

TOLERANCE = 1e-4
few = settings(max_examples=6)
arrivals = st.lists(st.integers(0, 17), min_size=1, max_size=6).filter(lambda a: sum(a) > 0)


def saved(folder: Path, kind: Kind = "hift", **options: Any) -> Token2Wav:
    save_parts(folder, small_parts(kind, **options))
    return Token2Wav.from_pretrained(folder, device="cpu", cache_folder=folder / "voices")


@pytest.fixture(scope="module", params=["hift", "istft"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Token2Wav:
    return saved(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Token2Wav:
    return saved(tmp_path_factory.mktemp("model"), streaming={"mode": "reference"})


def prompt(num_tokens: int, seed: int = 0) -> VoicePrompt:
    draw = torch.Generator().manual_seed(seed)
    return VoicePrompt(
        torch.randint(0, CODEBOOK, (num_tokens,), generator=draw),
        torch.randn(BANDS, 2 * num_tokens, generator=draw),
        torch.randn(5, generator=draw),
    )


def random_codes(num_tokens: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, CODEBOOK, (num_tokens,), generator=draw)


def recording(seconds: float = 2.0) -> bytes:
    time = np.arange(round(seconds * 16_000)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (200 + 150 * time) * time)
    target = io.BytesIO()
    soundfile.write(target, wave, 16_000, format="WAV")
    return target.getvalue()


def streamed(
    engine: Token2Wav, voice: SpeechVoice, codes: Tensor, sizes: Sequence[int], seed: int = 0
) -> Tensor:
    stream = engine.stream(voice, seed=seed)
    pieces = codes.split(list(sizes))
    return torch.cat([*(stream.push(piece) for piece in pieces[:-1]), stream.finish(pieces[-1])])


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max())


def num_bytes(value: object) -> int:
    """Memory that a state keeps alive, that of views included; the voice is shared."""
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, tuple):
        return sum(map(num_bytes, value))
    if is_dataclass(value) and not isinstance(value, ExactVoice):
        return sum(num_bytes(getattr(value, f.name)) for f in fields(value))
    return 0


# ---- exact -------------------------------------------------------------------------------------


@few
@given(sizes=arrivals, num_prompt=st.sampled_from([0, 3, 8]))
def test_streamed_equals_offline(engine: Token2Wav, sizes: list[int], num_prompt: int) -> None:
    voice, codes = engine.prepare_voice(prompt(num_prompt)), random_codes(sum(sizes))
    offline = engine.synthesize(codes, voice)
    assert offline.dtype == torch.float32
    assert offline.shape == (len(codes) * SAMPLES_PER_TOKEN,)
    assert offline.abs().max() > 1e-2
    assert error(streamed(engine, voice, codes, sizes), offline) < TOLERANCE


def test_long_speech(engine: Token2Wav) -> None:
    voice, codes = engine.prepare_voice(prompt(6)), random_codes(700)
    offline = engine.synthesize(codes, voice)
    assert error(streamed(engine, voice, codes, [25] * 28), offline) < TOLERANCE


@few
@given(sessions=st.lists(st.tuples(arrivals, st.integers(0, 2)), min_size=2, max_size=3))
def test_sessions_equal_single_ones(
    engine: Token2Wav, sessions: list[tuple[list[int], int]]
) -> None:
    voices = [engine.prepare_voice(prompt(size, seed=size)) for size in (0, 4, 11)]
    batch = StreamBatch(engine)
    codes = [random_codes(sum(sizes), seed=i) for i, (sizes, _) in enumerate(sessions)]
    pieces = [c.split(sizes) for c, (sizes, _) in zip(codes, sessions, strict=True)]
    open_ones: dict[int, int] = {}
    wavs: list[list[Tensor]] = [[] for _ in sessions]
    for turn in range(max(map(len, pieces)) + len(sessions)):
        if turn < len(sessions):  # one after the other begins
            open_ones[batch.open(voices[sessions[turn][1]], seed=turn)] = turn
        for number, i in open_ones.items():
            if 0 <= turn - i < len(pieces[i]):
                batch.push(number, pieces[i][turn - i], last=turn - i == len(pieces[i]) - 1)
        for number, wav in batch.step().items():
            wavs[open_ones[number]].append(wav)
    assert len(batch) == 0
    for i, (_, v) in enumerate(sessions):
        single = engine.synthesize(codes[i], voices[v], seed=i)
        assert error(torch.cat(wavs[i]), single) < TOLERANCE


def test_state_does_not_grow(engine: Token2Wav) -> None:
    pair = [engine.init_state(engine.prepare_voice(prompt(4))) for _ in range(2)]
    sizes = []
    for turn in range(24):
        _, pair = engine.step([random_codes(7), random_codes(5)], pair, [False, False])
        sizes.append(max(map(num_bytes, pair)))
        if turn == 5:
            first = max(sizes)
    assert max(sizes[6:]) <= first * 1.02


def test_states_are_values(engine: Token2Wav) -> None:
    state = engine.init_state(engine.prepare_voice(prompt(4)))
    _, [state] = engine.step([random_codes(11)], [state], [False])
    ends = [engine.step([random_codes(9, seed)], [state], [True])[0][0] for seed in (1, 2, 1)]
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], ends[1])


def test_sound_comes_behind_few_tokens(engine: Token2Wav) -> None:
    stream = engine.stream(engine.prepare_voice(prompt(4)))
    # The first chunk has 3 tokens, which wait for 2 behind them; then 5 and 5. HiFT waits for more
    # than the 6 frames of the first chunk, the light vocoder does not.
    silent = 4 if engine.vocoder.modes == ("exact",) else 9
    assert len(stream.push(random_codes(silent))) == 0
    assert len(stream.push(random_codes(1))) > 0


# ---- noise -------------------------------------------------------------------------------------


def test_all_noise_has_a_seed(engine: Token2Wav, reference: Token2Wav) -> None:
    for each in (engine, reference):
        voice, codes = each.prepare_voice(prompt(4)), random_codes(9)
        torch.manual_seed(1)
        first = each.synthesize(codes, voice)
        before = torch.random.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(first, each.synthesize(codes, voice))
        assert torch.equal(first, each.synthesize(codes, voice, seed=0))
        assert not torch.equal(first, each.synthesize(codes, voice, seed=3))
        torch.manual_seed(1)
        assert torch.equal(before, torch.random.get_rng_state())  # nobody drew from it


def test_the_seed_of_the_checkpoint(tmp_path: Path) -> None:
    engine = saved(tmp_path, noise_seed=5)
    voice, codes = engine.prepare_voice(prompt(4)), random_codes(9)
    assert torch.equal(engine.synthesize(codes, voice), engine.synthesize(codes, voice, seed=5))


# ---- reference ---------------------------------------------------------------------------------


def test_mode_comes_from_the_checkpoint(engine: Token2Wav, reference: Token2Wav) -> None:
    assert (engine.mode, reference.mode) == ("exact", "reference")


def test_reference_streams_are_mel_decoder_and_vocoder(reference: Token2Wav) -> None:
    """The joint adds nothing of its own to what is compared with the public code's numbers."""
    voice, codes = reference.prepare_voice(prompt(8)), random_codes(26)
    stream = reference.stream(voice)
    pieces = [stream.push(codes[:13]), stream.finish(codes[13:])]
    assert sum(map(len, pieces)) == len(codes) * SAMPLES_PER_TOKEN
    state = reference.init_state(voice)
    mel, vocoder, made = state.mel, state.vocoder, []
    for part, last in ((codes[:13], False), (codes[13:], True)):
        [frames], [mel] = reference._mel.step([part], [mel], [last])
        [wav], [vocoder] = reference.vocoder.step([frames], [vocoder], [last])
        made.append(wav)
    assert all(map(torch.equal, pieces, made))


def test_reference_sessions_equal_single_ones(reference: Token2Wav) -> None:
    voices = [reference.prepare_voice(prompt(size, seed=size)) for size in (5, 9)]
    codes = [random_codes(21, seed=1), random_codes(12, seed=2)]
    batch = StreamBatch(reference)
    numbers = [batch.open(voice) for voice in voices]
    wavs: dict[int, list[Tensor]] = {number: [] for number in numbers}
    for start in (0, 9, 18):
        for number, row in zip(numbers, codes, strict=True):
            if start < len(row):
                batch.push(number, row[start : start + 9], last=start + 9 >= len(row))
        for number, wav in batch.step().items():
            wavs[number].append(wav)
    for number, voice, row in zip(numbers, voices, codes, strict=True):
        sizes = [9, 9, 3] if len(row) == 21 else [9, 3]
        assert error(torch.cat(wavs[number]), streamed(reference, voice, row, sizes)) < TOLERANCE


def test_a_mode_can_be_chosen(reference: Token2Wav, engine: Token2Wav) -> None:
    exact = Token2Wav(reference.flow, reference.vocoder, reference.voices, mode="exact")
    voice, codes = exact.prepare_voice(prompt(4)), random_codes(20)
    whole = exact.synthesize(codes, voice)
    assert error(streamed(exact, voice, codes, [3, 17]), whole) < TOLERANCE
    if engine.vocoder.modes == ("exact",):
        with pytest.raises(ConfigError, match="exact only, not in mode reference"):
            Token2Wav(engine.flow, engine.vocoder, engine.voices, mode="reference")


# ---- recordings --------------------------------------------------------------------------------


def test_a_recording_is_taken_apart_and_spoken_again(engine: Token2Wav) -> None:
    voice = engine.prepare_voice(recording())
    codes = engine.tokenize(torch.randn(16_000))
    assert len(codes) == 25
    wav = engine.synthesize(codes, voice)
    assert engine.sample_rate == RATE
    assert len(wav) == RATE
    other = engine.synthesize(codes, engine.prepare_voice(recording(1.5)))
    assert error(wav, other) > 1e-3


# ---- bad input ---------------------------------------------------------------------------------


def test_no_tokens(engine: Token2Wav, reference: Token2Wav) -> None:
    for each in (engine, reference):
        voice = each.prepare_voice(prompt(4))
        with pytest.raises(AudioTokenError, match="no audio tokens"):
            each.synthesize([], voice)
        # A stream that ends before its first token is silent: an answer may be interrupted.
        assert len(each.stream(voice).finish()) == 0
    assert engine.step([], [], []) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [[1.7], [True], ["1"], [None], [2**70], [[1]], torch.tensor([1.0]), torch.tensor([True])],
)
def test_codes_that_are_no_integers(engine: Token2Wav, wrong: Any) -> None:
    voice = engine.prepare_voice(prompt(4))
    with pytest.raises(AudioTokenError, match="must be integers"):
        engine.synthesize(wrong, voice)


def test_sound_may_be_changed_in_place(engine: Token2Wav) -> None:
    wav = engine.synthesize([1, 2], engine.prepare_voice(prompt(4)))
    assert not wav.mul_(0.5).requires_grad


@pytest.mark.parametrize("wrong", [-1, CODEBOOK, 2**40])
def test_codes_out_of_range(engine: Token2Wav, wrong: int) -> None:
    voice = engine.prepare_voice(prompt(4))
    with pytest.raises(AudioTokenError, match=f"{wrong} is outside of the codebook 0 to 80"):
        engine.synthesize([1, wrong], voice)
    batch = StreamBatch(engine)
    good, bad = batch.open(voice), batch.open(voice)
    with pytest.raises(AudioTokenError, match="codebook"):
        batch.push(bad, [wrong])
    for session in (good, bad):
        batch.push(session, [1, 2, 3], last=True)
    wavs = batch.step()
    assert torch.allclose(wavs[good], wavs[bad], atol=TOLERANCE)


def test_unusable_voice(engine: Token2Wav) -> None:
    with pytest.raises(VoiceError, match="at least 1 s"):
        engine.prepare_voice(recording(0.5))


def test_ended_and_unknown_sessions(engine: Token2Wav) -> None:
    voice = engine.prepare_voice(prompt(4))
    stream = engine.stream(voice)
    stream.finish([1, 2])
    with pytest.raises(ValueError, match="ended"):
        stream.push([1])
    batch = StreamBatch(engine)
    assert batch.step() == {}
    number = batch.open(voice)
    batch.push(number, [1], last=True)
    with pytest.raises(ValueError, match="has ended"):
        batch.push(number, [2])
    batch.step()
    for forbidden in (lambda: batch.push(number, [2]), lambda: batch.close(number)):
        with pytest.raises(ValueError, match="has ended"):
            forbidden()
    interrupted = batch.open(voice)
    batch.push(interrupted, [1])
    batch.close(interrupted)
    assert batch.step() == {}
