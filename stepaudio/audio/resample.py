"""Sample rate conversion of whole signals and of streams.

The numbers are those of `torchaudio.transforms.Resample` with its defaults (specification,
section 1). A stream gives the same samples as the whole signal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

# torchaudio's filter bank grows with the product of the reduced rates: 44 101 Hz to 16 kHz would
# take 2.8 GB. Such ratios, which hardly a device records, go to PyAV's resampler.
_MAX_FILTER_BANK = 1 << 20


@lru_cache(maxsize=16)
def _transform(num_in: int, num_out: int) -> Resample:
    from torchaudio.transforms import Resample

    return Resample(num_in, num_out)


def _reduced(source_rate: int, target_rate: int) -> tuple[int, int]:
    if min(source_rate, target_rate) <= 0:
        raise ValueError(f"sample rates must be positive, got {source_rate} and {target_rate}")
    divisor = math.gcd(source_rate, target_rate)
    return source_rate // divisor, target_rate // divisor


def resample(samples: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Convert the rate of a whole signal.

    Args:
        samples: float32 [samples].
        source_rate: in Hz.
        target_rate: in Hz.

    Returns:
        float32 [ceil(samples * target_rate / source_rate)].

    Raises:
        ValueError: a rate is not positive.
    """
    num_in, num_out = _reduced(source_rate, target_rate)
    if num_in == num_out or not len(samples):
        return samples
    if num_in * num_out > _MAX_FILTER_BANK:
        # A sample or two may come out as nothing.
        blocks = _odd_ratio_blocks([samples], source_rate, target_rate)
        return torch.cat([samples.new_zeros(0), *blocks])
    with torch.no_grad():
        converted: Tensor = _transform(num_in, num_out)(samples)
    return converted


def resample_blocks(
    blocks: Iterable[Tensor], source_rate: int, target_rate: int
) -> Iterator[Tensor]:
    """Convert the rate of a signal that arrives in blocks, with bounded memory.

    The blocks together equal `resample` of the whole signal: every block is converted with so
    much of its neighbours that the filter sees no edge.

    Args:
        blocks: float32 [samples], any lengths.
        source_rate: in Hz.
        target_rate: in Hz.

    Raises:
        ValueError: a rate is not positive.
    """
    num_in, num_out = _reduced(source_rate, target_rate)
    if num_in == num_out:
        yield from blocks
        return
    if num_in * num_out > _MAX_FILTER_BANK:
        yield from _odd_ratio_blocks(blocks, source_rate, target_rate)
        return
    transform = _transform(num_in, num_out)
    # One stride of the filter bank turns num_in samples into num_out; it reaches this far.
    reach = transform.lowpass_filter_width * num_in / (min(num_in, num_out) * transform.rolloff)
    context = math.ceil((math.ceil(reach) + num_in) / num_in)
    held, lead = torch.zeros(0), 0  # `lead` strides of `held` were given out before
    for block in blocks:
        held = torch.cat([held, block])
        ready = len(held) // num_in - context
        if ready <= lead:
            continue
        converted = resample(held[: (ready + context) * num_in], num_in, num_out)
        yield converted[lead * num_out : ready * num_out]
        dropped = max(0, ready - context)
        held, lead = held[dropped * num_in :], ready - dropped
    if len(held):
        yield resample(held, num_in, num_out)[lead * num_out :]


def _odd_ratio_blocks(
    blocks: Iterable[Tensor], source_rate: int, target_rate: int
) -> Iterator[Tensor]:
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=target_rate)
    for block in blocks:
        if not len(block):
            continue
        frame = av.AudioFrame.from_ndarray(block.numpy()[None], format="flt", layout="mono")
        frame.sample_rate = source_rate
        for converted in resampler.resample(frame):
            yield torch.from_numpy(converted.to_ndarray()[0])
    for converted in resampler.resample(None):
        yield torch.from_numpy(converted.to_ndarray()[0])
