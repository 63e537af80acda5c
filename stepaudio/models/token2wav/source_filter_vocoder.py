"""A vocoder of two sources and their filters, for models that run on small CPUs.

A network at the rate of the mel tells the fundamental frequency, how voiced a frame is, and two
filters for every subframe: one for a train of pulses, one for noise. Classical signal processing
does the rest (after Engel et al., "DDSP", arXiv 2001.04643), so there is little to learn.

All convolutions look left only, but for a few frames at the input. The whole signal is a stream of
one step. At inference the network is float64: the phase of the pulses is an integral over all
frames, in which the rounding of float32, which depends on how a stream is cut, would add up.

Shape legend: B batch, M mel bands, T mel frames, D width, E excitations (pulses, noise), J
subframes, P points of a filter, C pitch bins, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.noise import positional_noise
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.source_filter_network import (
    NUM_EXCITATIONS,
    Controls,
    FrameNetwork,
)
from stepaudio.models.token2wav.source_filter_signal import (
    filtered,
    interpolated,
    modulated,
    pulse_train,
)
from stepaudio.models.token2wav.vocoder import VocoderMode
from stepaudio.models.token2wav.windows import stack_rows


@dataclass(frozen=True)
class SourceFilterState:
    """Memory of one session.

    Attributes:
        mel: last mel frames above silence, [M, kernel_size - 1] once as many were heard.
        layers: last input frames of every block, [D, kernel_size - 1].
        num_frames: frames turned into sound so far.
        source: float64 F0 and voicing at the end of the last hop, [2].
        cycles: float64 phase there, [1].
        excitation: last subframe of both excitations, [E, subframe_length].
        ringing: sound that later subframes are added to, [n_fft - subframe_length].
        seed: of the noise; None: no noise.
    """

    mel: Tensor
    layers: tuple[Tensor, ...]
    num_frames: int
    source: Tensor
    cycles: Tensor
    excitation: Tensor
    ringing: Tensor
    seed: int | None


class SourceFilterVocoder(nn.Module):
    """The source-filter vocoder, with the interface of `Vocoder` after `prepare_inference`."""

    def __init__(self, config: SourceFilterConfig) -> None:
        super().__init__()
        self.config = config
        self.network = FrameNetwork(config)

    @property
    def sample_rate(self) -> int:
        """Of the waveform in Hz."""
        return self.config.sampling_rate

    @property
    def num_mels(self) -> int:
        """Mel bands."""
        return self.config.in_channels

    @property
    def hop_length(self) -> int:
        """Samples for every mel frame."""
        return self.config.hop_length

    @property
    def modes(self) -> tuple[VocoderMode, ...]:
        """Ways in which it can stream; the public code has no reference for it."""
        return ("exact",)

    @property
    def lookahead_frames(self) -> int:
        """Mel frames that streaming waits for behind a frame."""
        return self.config.lookahead_frames

    # ---- training ------------------------------------------------------------------------------

    def controls(self, mel_BMT: Tensor) -> Controls:
        """Controls of whole stretches, which silence precedes.

        Args:
            mel_BMT: log-mel of T frames and the `lookahead` ones behind them.
        """
        left = self.config.kernel_size - 1 - self.config.lookahead
        extended = F.pad(self.network.above_silence(mel_BMT), (left, 0))
        return self.network(extended, self._silence(len(mel_BMT)))[0]

    def forward(
        self, filters_BJEP: Tensor, f0_BT: Tensor, voiced_BT: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        """Turn filters and a known pitch into sound, without the limit on samples.

        Args:
            filters_BJEP: from `controls`.
            f0_BT: Hz at the end of every hop.
            voiced_BT: zero to one.
            seeds: of the noise.

        Returns:
            float32 [B, T * hop_length].
        """
        source = torch.stack([f0_BT, voiced_BT], dim=1).double()
        rows = len(seeds)
        start = source.new_zeros(rows, 1)
        excitation, _ = self._excite(source, source[..., 0], start, (seeds, [0] * rows))
        step = self.config.subframe_length
        sound = self._filter(F.pad(excitation, (step, 0)), filters_BJEP, ends=True)
        return sound[:, step : step + f0_BT.shape[1] * self.hop_length]

    # ---- parts ---------------------------------------------------------------------------------

    def _silence(self, rows: int) -> list[Tensor]:
        """Tails of the blocks before the first frame."""
        shape = rows, self.config.hidden_size, self.config.kernel_size - 1
        return [self.network.embed.weight.new_zeros(shape)] * self.config.num_layers

    def _excite(
        self,
        source_B2T: Tensor,
        before_B2: Tensor,
        cycles_B1: Tensor,
        noise_at: tuple[Sequence[int | None], Sequence[int]],
    ) -> tuple[Tensor, Tensor]:
        """Excitations of some hops, [B, E, S], and the phase at their end, [B, 1].

        Args:
            source_B2T: float64 F0 and voicing at the end of every hop.
            before_B2: the same before the first hop.
            cycles_B1: float64 phase before the first hop.
            noise_at: seed and absolute position of the first sample of every row.
        """
        f0, voiced = (
            interpolated(source_B2T[:, i], before_B2[:, i : i + 1], self.hop_length)
            for i in range(2)
        )
        pulses, cycles = pulse_train(f0, cycles_B1, self.sample_rate)
        noise = positional_noise(
            [seed or 0 for seed in noise_at[0]], noise_at[1], (1, f0.shape[1]), f0.device
        )
        heard = torch.tensor([seed is not None for seed in noise_at[0]], device=f0.device)
        noise = modulated(noise[:, 0], cycles, voiced * self.config.noise_modulation)
        excitations = [pulses * voiced.float(), noise * heard[:, None]]
        return torch.stack(excitations, dim=1), cycles[:, -1:] % 1.0

    def _filter(self, excitation_BES: Tensor, filters_BJEP: Tensor, *, ends: bool) -> Tensor:
        """Sound of subframes whose first begins one subframe before the new samples."""
        if ends:
            # The last sample that is heard lies in a window that reaches into silence.
            excitation_BES = F.pad(excitation_BES, (0, self.config.subframe_length))
            filters_BJEP = torch.cat([filters_BJEP, filters_BJEP[:, -1:]], dim=1)
        return filtered(excitation_BES, filters_BJEP, self.config)

    # ---- whole signals -------------------------------------------------------------------------

    def synthesise(
        self, mel: Tensor, mel_lens: Sequence[int], *, seeds: Sequence[int] | None
    ) -> Tensor:
        """Turn whole mels [B, M, T] into waveforms [B, T * hop_length]; see `Vocoder`.

        Raises:
            ValueError: a row has no frames.
        """
        if min(mel_lens) < 1:
            raise ValueError(f"every row needs a mel frame, got lengths {list(mel_lens)}")
        states = [self._initial(None if seeds is None else seeds[i]) for i in range(len(mel_lens))]
        rows = [row[:, :length] for row, length in zip(mel, mel_lens, strict=True)]
        wavs, _ = self.step(rows, states, [True] * len(rows))
        wav = stack_rows([wav[None] for wav in wavs])[:, 0]
        return F.pad(wav, (0, mel.shape[-1] * self.hop_length - wav.shape[-1]))

    # ---- streams -------------------------------------------------------------------------------

    def init_state(self, *, mode: VocoderMode, seed: int) -> SourceFilterState:
        """State of a session that has heard nothing; see `Vocoder`.

        Raises:
            ValueError: `mode` is "reference", which the public code has for HiFT only.
        """
        if mode not in self.modes:
            raise ValueError(f"this vocoder streams in mode 'exact' only, got {mode!r}")
        return self._initial(seed)

    def step(
        self,
        mels: Sequence[Tensor],
        states: Sequence[SourceFilterState],
        last: Sequence[bool],
    ) -> tuple[list[Tensor], list[SourceFilterState]]:
        """Advance sessions by their next mel frames; see `Vocoder`."""
        kernel = self.config.kernel_size
        extended = [
            self._heard(state.mel, mel, ends)
            for state, mel, ends in zip(states, mels, last, strict=True)
        ]
        counts = [max(0, rows.shape[-1] - kernel + 1) for rows in extended]
        wavs = [state.ringing[:0] for state in states]
        new_states = [replace(state, mel=mel) for state, mel in zip(states, extended, strict=True)]
        # Sessions with as many new frames share a batch.
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, (count, ends) in enumerate(zip(counts, last, strict=True)):
            if count:
                groups.setdefault((count, ends), []).append(i)
        for (count, ends), group in groups.items():
            sounds, advanced = self._advance([new_states[i] for i in group], count, ends)
            for i, wav, state in zip(group, sounds, advanced, strict=True):
                wavs[i], new_states[i] = wav, state
        return wavs, new_states

    def _heard(self, before: Tensor, mel: Tensor, ends: bool) -> Tensor:
        new = self.network.above_silence(mel)
        return torch.cat([before, F.pad(new, (0, self.config.lookahead if ends else 0))], dim=-1)

    def _advance(
        self, states: Sequence[SourceFilterState], count: int, ends: bool
    ) -> tuple[list[Tensor], list[SourceFilterState]]:
        """Turn the next frames of sessions, whose mel is in their states, into sound."""
        config, kernel, step = self.config, self.config.kernel_size, self.config.subframe_length
        tails = [torch.stack(rows) for rows in zip(*(s.layers for s in states), strict=True)]
        controls, inputs = self.network(torch.stack([s.mel for s in states]), tails)
        source = torch.stack([controls.f0, controls.voicing.sigmoid()], dim=1).double()
        before = [
            state.source if state.num_frames else source[row, :, 0]
            for row, state in enumerate(states)
        ]
        starts = [state.num_frames * self.hop_length for state in states]
        excitation, cycles = self._excite(
            source,
            torch.stack(before),
            torch.stack([state.cycles for state in states]),
            ([state.seed for state in states], starts),
        )
        excitation = torch.cat([torch.stack([s.excitation for s in states]), excitation], dim=-1)
        sound = self._filter(excitation, controls.filters, ends=ends)
        ready = sound.shape[-1] - config.n_fft + step
        ringing = F.pad(torch.stack([s.ringing for s in states]), (0, ready))[:, : sound.shape[-1]]
        sound = sound + ringing
        heard = sound[:, :ready].clamp(-config.audio_limit, config.audio_limit)
        wavs, new_states = [], []
        for row, state in enumerate(states):
            # The first window begins before the sound.
            wavs.append(heard[row, 0 if state.num_frames else step :])
            new_states.append(
                SourceFilterState(
                    mel=state.mel[:, count:].clone(),
                    layers=tuple(values[row, :, -(kernel - 1) :].clone() for values in inputs),
                    num_frames=state.num_frames + count,
                    source=source[row, :, -1].clone(),
                    cycles=cycles[row].clone(),
                    excitation=excitation[row, :, -step:].clone(),
                    ringing=sound[row, ready:].clone(),
                    seed=state.seed,
                )
            )
        return wavs, new_states

    def _initial(self, seed: int | None) -> SourceFilterState:
        config, weight = self.config, self.network.embed.weight
        step = config.subframe_length
        return SourceFilterState(
            mel=weight.new_zeros(config.in_channels, config.kernel_size - 1 - config.lookahead),
            layers=tuple(tail[0] for tail in self._silence(1)),
            num_frames=0,
            source=weight.new_zeros(2, dtype=torch.float64),
            cycles=weight.new_zeros(1, dtype=torch.float64),
            excitation=weight.new_zeros(NUM_EXCITATIONS, step, dtype=torch.float32),
            ringing=weight.new_zeros(config.n_fft - step, dtype=torch.float32),
            seed=seed,
        )


def prepare_inference(vocoder: SourceFilterVocoder) -> SourceFilterVocoder:
    """Make the network float64, in place; training ends here."""
    vocoder.network.double()
    return vocoder.eval()


def load_source_filter_vocoder(path: str | Path, config: SourceFilterConfig) -> SourceFilterVocoder:
    """Load a source-filter vocoder for inference.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit.
    """
    with torch.device("meta"):
        vocoder = SourceFilterVocoder(config)
    load_strict(vocoder, read_tensors(path), path)
    return prepare_inference(vocoder)
