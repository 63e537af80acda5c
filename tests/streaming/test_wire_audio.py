"""Sound on the wire: G.711, PCM16, base64, rate conversion, playback clock."""

from __future__ import annotations

import base64
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepaudio.audio.resample import resample
from stepaudio.errors import RequestError
from stepaudio_streaming.audio import (
    InputDecoder,
    OutputEncoder,
    StreamResampler,
    WireFormat,
    decode_audio,
    decode_base64,
    encode_audio,
    to_input_samples,
    transcode,
)
from stepaudio_streaming.playback import PlaybackClock

RNG = np.random.default_rng(0)
NOISE = (0.3 * RNG.standard_normal(5000)).astype(np.float32)
LAWS: list[WireFormat] = ["audio/pcmu", "audio/pcma"]


@pytest.mark.parametrize(
    ("law", "silence", "loudest", "value"),
    # ITU-T G.711: codes of silence and of the largest amplitude, and what that one stands for.
    [("audio/pcmu", 0xFF, 0x80, 32124), ("audio/pcma", 0xD5, 0xAA, 32256)],
)
def test_codes_of_the_standard(law: WireFormat, silence: int, loudest: int, value: int) -> None:
    assert encode_audio(np.zeros(1, np.float32), law) == bytes([silence])
    assert encode_audio(np.ones(1, np.float32), law) == bytes([loudest])
    assert round(float(decode_audio(bytes([loudest]), law)[0]) * 32768) == value


@pytest.mark.parametrize("law", LAWS)
def test_companding_is_that_of_the_standard_library(law: WireFormat) -> None:
    audioop = pytest.importorskip("audioop")  # gone with Python 3.13
    compress, expand = {
        "audio/pcmu": (audioop.lin2ulaw, audioop.ulaw2lin),
        "audio/pcma": (audioop.lin2alaw, audioop.alaw2lin),
    }[law]
    every = np.arange(-32768, 32768, dtype="<i2").tobytes()
    assert encode_audio(decode_audio(every, "audio/pcm"), law) == compress(every, 2)
    codes = bytes(range(256))
    assert encode_audio(decode_audio(codes, law), "audio/pcm") == expand(codes, 2)


@pytest.mark.parametrize("law", LAWS)
def test_every_code_survives_decoding_and_encoding(law: WireFormat) -> None:
    codes = bytes(range(256))
    again = encode_audio(decode_audio(codes, law), law)
    # µ-law has two zeros.
    assert again.replace(b"\xff", b"\x7f") == codes.replace(b"\xff", b"\x7f")


@pytest.mark.parametrize("law", LAWS)
def test_companding_errs_by_a_share_of_the_level(law: WireFormat) -> None:
    values = np.linspace(-1, 1, 4001, dtype=np.float32)
    error = np.abs(decode_audio(encode_audio(values, law), law) - values)
    assert np.all(error <= np.abs(values) / 31 + 1 / 2048)


def test_pcm_is_exact_and_clipped() -> None:
    data = np.arange(-32768, 32768, dtype="<i2").tobytes()
    assert encode_audio(decode_audio(data, "audio/pcm"), "audio/pcm") == data
    loud = np.array([-3.0, 3.0], np.float32)
    assert np.frombuffer(encode_audio(loud, "audio/pcm"), "<i2").tolist() == [-32768, 32767]


@pytest.mark.parametrize(("source", "target"), [(24_000, 16_000), (8_000, 16_000), (24_000, 8_000)])
@given(cuts=st.lists(st.integers(0, 5000), max_size=8))
def test_streamed_conversion_is_that_of_the_library(
    source: int, target: int, cuts: list[int]
) -> None:
    resampler = StreamResampler(source, target)
    pieces = np.split(NOISE, sorted(cuts))
    streamed = np.concatenate([*map(resampler.push, pieces), resampler.flush()])
    expected = resample(torch.from_numpy(NOISE), source, target).numpy()
    np.testing.assert_allclose(streamed, expected, atol=2e-6)


def test_a_flushed_resampler_begins_anew() -> None:
    resampler = StreamResampler(24_000, 16_000)
    first = np.concatenate([resampler.push(NOISE), resampler.flush()])
    second = np.concatenate([resampler.push(NOISE), resampler.flush()])
    np.testing.assert_array_equal(first, second)


@given(st.lists(st.integers(0, 400), max_size=10))
def test_appends_of_any_size_are_heard_as_one(cuts: list[int]) -> None:
    data = RNG.integers(0, 256, 400, dtype=np.uint8).tobytes()
    bounds = [0, *sorted(cuts), 400]
    decoder = InputDecoder("audio/pcm")
    parts = [decoder.push(data[a:b]) for a, b in pairwise(bounds)]
    assert b"".join(part for part, _ in parts) == data
    whole = to_input_samples(data, "audio/pcm")
    heard = np.concatenate([samples for _, samples in parts])
    np.testing.assert_allclose(heard, whole[: len(heard)], atol=1e-6)
    assert len(whole) - len(heard) < 32


def test_an_answer_in_g711_has_all_its_samples() -> None:
    encoder = OutputEncoder("audio/pcma")
    data = encoder.push(NOISE[:1234]) + encoder.push(NOISE[1234:]) + encoder.flush()
    assert len(data) == -(-len(NOISE) // 3)
    whole = transcode(encode_audio(NOISE, "audio/pcm"), "audio/pcm", "audio/pcma")
    assert sum(a != b for a, b in zip(data, whole, strict=True)) < 20  # rounding to PCM first


def test_base64_is_strict_and_limited() -> None:
    data = RNG.integers(0, 256, 999, dtype=np.uint8).tobytes()
    text = base64.b64encode(data).decode()
    assert decode_base64(text, param="audio") == data
    for bad in (text[:-1], text + "A", "AA\nAA", "AAé=", "===="):
        with pytest.raises(RequestError, match="base64"):
            decode_base64(bad, param="audio")
    with pytest.raises(RequestError) as caught:
        decode_base64("A" * 2000, param="audio", max_bytes=999)
    assert caught.value.code == "audio_too_large"


def test_playback_runs_in_real_time_and_pauses_when_dry() -> None:
    clock = PlaybackClock()
    clock.send(1000, now=5.0)
    clock.send(500, now=5.2)
    assert [clock.played_ms(t) for t in (5.0, 5.5, 6.4, 9.0)] == [0, 500, 1400, 1500]
    clock.send(200, now=10.0)
    assert clock.played_ms(10.1) == 1600 and clock.unplayed_ms(10.1) == pytest.approx(100)
    clock.stop(10.1)
    assert clock.played_ms(20.0) == 1600 and clock.unplayed_ms(10.1) == 0
