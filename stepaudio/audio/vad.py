"""Voice-activity detectors: speech probability of every 32 ms frame of a stream."""

from __future__ import annotations

import importlib.util
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.errors import StepAudioError

VAD_FRAME_SAMPLES = SAMPLE_RATE * 32 // 1000

_State = TypeVar("_State")


class VoiceActivityDetector(Protocol[_State]):
    """What tells speech from everything else. All state of a stream is an argument."""

    def init_state(self) -> _State:
        """State of a stream that has heard nothing."""
        ...

    def speech_probabilities(
        self, samples: Tensor, state: _State, *, last: bool = False
    ) -> tuple[Tensor, _State]:
        """Probability of speech in every frame that is now complete.

        The frames of all calls together equal those of one call with all samples.

        Args:
            samples: float32 [samples] at 16 kHz, any number of samples.
            state: state returned by the previous call.
            last: the stream ends here; an incomplete frame is filled with zeros.

        Returns:
            float32 [new frames] and the new state.
        """
        ...


def _take_frames(
    pending: Tensor, samples: Tensor, context: int, last: bool
) -> tuple[Tensor, Tensor]:
    """Cut a stream into frames that each begin with the last `context` samples of the one before.

    Returns:
        [frames, context + 512] and what the next call needs as `pending`.
    """
    held = torch.cat([pending, samples])
    available = len(held) - context
    num_frames = available // VAD_FRAME_SAMPLES
    if last and available % VAD_FRAME_SAMPLES:
        num_frames += 1
        held = F.pad(held, (0, num_frames * VAD_FRAME_SAMPLES - available))
    if num_frames == 0:
        return held.new_zeros(0, context + VAD_FRAME_SAMPLES), held
    frames = held.unfold(0, context + VAD_FRAME_SAMPLES, VAD_FRAME_SAMPLES)[:num_frames]
    return frames, held[num_frames * VAD_FRAME_SAMPLES :].clone()


@dataclass(frozen=True)
class SileroState:
    """What one stream remembers between calls.

    Attributes:
        pending: 64 samples of context and the samples of an incomplete frame.
        hidden: hidden state of the LSTM, [1, 128].
        cell: cell state of the LSTM, [1, 128].
    """

    pending: Tensor
    hidden: Tensor
    cell: Tensor


class SileroDetector:
    """Silero VAD (MIT licence; the weights come with the package `silero-vad`).

    Only the weights of the packaged TorchScript model are used. Its own forward pass takes one
    frame a call; here all frames of a call go through the convolutions together, which gives the
    same probabilities (to 1e-5) ten times faster, and importing the package, which would set the
    number of torch threads to one, is not needed.

    Raises:
        StepAudioError: silero-vad is not installed, or its model is not the expected one.
    """

    _CONTEXT = 64
    _WIDTH = 128
    _STRIDES = (1, 2, 2, 1)
    _MAX_FRAMES = 1024  # frames that go through the convolutions at once; bounds the memory

    def __init__(self) -> None:
        weights = _silero_weights()
        try:
            self._basis = weights["stft.forward_basis_buffer"]
            self._convs = [
                (
                    weights[f"encoder.{i}.reparam_conv.weight"],
                    weights[f"encoder.{i}.reparam_conv.bias"],
                )
                for i in range(len(self._STRIDES))
            ]
            self._lstm = torch.nn.LSTM(self._WIDTH, self._WIDTH)
            self._lstm.load_state_dict(
                {
                    f"{name}_l0": weights[f"decoder.rnn.{name}"]
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                }
            )
            self._head = (
                weights["decoder.decoder.2.weight"][:, :, 0],
                weights["decoder.decoder.2.bias"],
            )
        except (KeyError, RuntimeError) as error:
            raise StepAudioError(
                f"silero-vad: this version has another model ({error}); install silero-vad>=6.2,<7"
            ) from error

    def init_state(self) -> SileroState:
        """State of a stream that has heard nothing."""
        zeros = torch.zeros(1, self._WIDTH)
        return SileroState(torch.zeros(self._CONTEXT), zeros, zeros)

    @torch.no_grad()
    def speech_probabilities(
        self, samples: Tensor, state: SileroState, *, last: bool = False
    ) -> tuple[Tensor, SileroState]:
        """Probability of speech in every frame that is now complete; see the protocol."""
        frames, pending = _take_frames(state.pending, samples, self._CONTEXT, last)
        hidden, cell = state.hidden, state.cell
        probabilities = [frames.new_zeros(0)]
        for part in frames.split(self._MAX_FRAMES) if len(frames) else ():
            out, (hidden, cell) = self._lstm(self._features(part), (hidden, cell))
            probabilities.append(F.linear(out.relu(), *self._head).sigmoid()[:, 0])
        return torch.cat(probabilities), SileroState(pending, hidden, cell)

    def _features(self, frames: Tensor) -> Tensor:
        """[frames, 576] samples to [frames, 128]."""
        x = F.pad(frames[:, None], (0, self._CONTEXT), mode="reflect")
        bins = self._basis.shape[0] // 2
        real, imaginary = F.conv1d(x, self._basis, stride=self._WIDTH).split(bins, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for (weight, bias), stride in zip(self._convs, self._STRIDES, strict=True):
            x = F.conv1d(x, weight, bias, stride=stride, padding=1).relu()
        return x[:, :, 0]


@lru_cache(maxsize=1)
def silero_detector() -> SileroDetector:
    """The one detector of this process; it holds weights only, so all streams can share it."""
    return SileroDetector()


def _silero_weights() -> dict[str, Tensor]:
    # Found without importing the package: its import changes torch's number of threads.
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise StepAudioError("silero-vad is not installed: pip install silero-vad")
    path = Path(package.origin).parent / "data" / "silero_vad.jit"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the package ships TorchScript
            script = torch.jit.load(str(path), map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise StepAudioError(f"{path}: cannot be read; reinstall silero-vad ({error})") from error
    prefix = "_model."  # the 16 kHz model; _model_8k stands beside it
    return {
        name.removeprefix(prefix): value
        for name, value in script.state_dict().items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True)
class EnergyState:
    """What one stream remembers between calls.

    Attributes:
        pending: samples of an incomplete frame.
        floor_db: level of the background, in dB of full scale.
    """

    pending: Tensor
    floor_db: float


@dataclass(frozen=True)
class EnergyDetector:
    """Speech is what is louder than the background: needs no model, is fooled by any noise.

    Attributes:
        margin_db: this far above the background the probability is one half.
        slope_db: the probability passes from 0.27 to 0.73 over twice this range.
        rise_db_s: how fast the background estimate rises; it falls at once.
        quietest_db: frames below this level are silence.
    """

    margin_db: float = 12.0
    slope_db: float = 3.0
    rise_db_s: float = 3.0
    quietest_db: float = -65.0

    def init_state(self) -> EnergyState:
        """State of a stream that has heard nothing."""
        return EnergyState(torch.zeros(0), -45.0)

    def speech_probabilities(
        self, samples: Tensor, state: EnergyState, *, last: bool = False
    ) -> tuple[Tensor, EnergyState]:
        """Probability of speech in every frame that is now complete; see the protocol."""
        frames, pending = _take_frames(state.pending, samples, 0, last)
        levels = (10.0 * frames.square().mean(1).clamp(min=1e-12).log10()).tolist()
        rise_db = self.rise_db_s * VAD_FRAME_SAMPLES / SAMPLE_RATE
        floor_db, probabilities = state.floor_db, []
        for level_db in levels:
            floor_db = max(min(floor_db + rise_db, level_db), self.quietest_db)
            excess = (level_db - floor_db - self.margin_db) / self.slope_db
            probabilities.append(1.0 / (1.0 + math.exp(-excess)))
        return torch.tensor(probabilities), EnergyState(pending, floor_db)
