import math

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.audio.resample import resample, resample_blocks

USUAL_RATES = [8000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]
ODD_RATES = [7994, 22_255, 44_101]


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([*USUAL_RATES, *ODD_RATES]),
    lengths=st.lists(st.integers(0, 3000), max_size=12),
    seed=st.integers(0, 100),
)
def test_stream_equals_whole(rate: int, lengths: list[int], seed: int) -> None:
    blocks = [torch.rand(n, generator=torch.manual_seed(seed + n)) - 0.5 for n in lengths]
    whole = resample(torch.cat([torch.zeros(0), *blocks]), rate, 16_000)
    stream = torch.cat([torch.zeros(0), *resample_blocks(blocks, rate, 16_000)])
    assert stream.shape == whole.shape
    assert torch.allclose(stream, whole, atol=1e-5)


def test_same_rate_changes_nothing() -> None:
    samples = torch.rand(100)
    assert resample(samples, 16_000, 16_000) is samples
    assert next(iter(resample_blocks([samples], 16_000, 16_000))) is samples


@pytest.mark.parametrize("rate", USUAL_RATES)
def test_usual_rates_give_torchaudios_numbers(rate: int) -> None:
    samples = torch.rand(5000)
    assert torch.equal(
        resample(samples, rate, 16_000), torchaudio.transforms.Resample(rate, 16_000)(samples)
    )


@pytest.mark.parametrize("rate", [*USUAL_RATES, *ODD_RATES])
def test_a_tone_stays_itself(rate: int) -> None:
    def tone(rate: int, length: int) -> torch.Tensor:
        return 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(length) / rate)

    converted = resample(tone(rate, 2 * rate), rate, 16_000)
    assert len(converted) == pytest.approx(32_000, abs=2)
    error = converted - tone(16_000, len(converted))
    assert error[300:-300].abs().max() < 2e-3


def test_rates_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        resample(torch.zeros(3), 0, 16_000)
