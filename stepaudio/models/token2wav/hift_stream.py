"""Streaming of the HiFT vocoder, for many sessions in one batch.

"exact" runs the parts of the vocoder one behind the other over windows (see `windows`), so that
every sample equals that of the whole signal. Between the stages of the ladder only finished frames
are kept, therefore chunks of a second cost about a tenth more than the whole signal at once.
"reference" is the public code's way: the last mel frames are heard again and the joint is
cross-faded (specification, section 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stepaudio.audio.prompt_features import fade_window
from stepaudio.models.token2wav.hift import Excitation, HiftVocoder
from stepaudio.models.token2wav.hift_config import HiftReach
from stepaudio.models.token2wav.vocoder import VocoderMode
from stepaudio.models.token2wav.windows import Rows, StageTail, run_stage, stack_rows


@dataclass(frozen=True)
class HiftExactState:
    """Memory of one session in "exact" mode: finished inputs of every part, and the phase.

    Attributes:
        f0, source, pre, post: tails of the parts of these names.
        branches, stages: one tail for every stage of the ladder.
        cycles: float64 phase of every harmonic at the last frame, in cycles, [H].
        seed: of the noise.
    """

    f0: StageTail
    source: StageTail
    branches: tuple[StageTail, ...]
    pre: StageTail
    stages: tuple[StageTail, ...]
    post: StageTail
    cycles: Tensor
    seed: int


@dataclass(frozen=True)
class HiftReferenceState:
    """Memory of one session in "reference" mode.

    Attributes:
        mel: last frames, [M, n].
        source: source of as many frames, [1, n * hop_length].
        speech: samples held back, which the next chunk's are faded into.
        num_frames: frames heard so far.
        seed: of the noise.
    """

    mel: Tensor
    source: Tensor
    speech: Tensor
    num_frames: int
    seed: int


HiftState = HiftExactState | HiftReferenceState


class Hift:
    """A HiFT vocoder with the interface of `Vocoder`; holds weights only.

    Args:
        model: best after `hift.prepare_inference`.
    """

    def __init__(self, model: HiftVocoder) -> None:
        self.model = model
        self.config = model.config
        self.reach = HiftReach.of(model.config)

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
        """Ways in which it can stream."""
        return ("reference", "exact")

    @property
    def lookahead_frames(self) -> int:
        """Mel frames that "exact" streaming waits for behind a frame."""
        return self.reach.lookahead_frames(self.config.hop_length)

    @property
    def _device(self) -> torch.device:
        return self.model.m_source.l_linear.weight.device

    def synthesise(
        self, mel: Tensor, mel_lens: Sequence[int], *, seeds: Sequence[int] | None
    ) -> Tensor:
        """Turn whole mels [B, M, T] into waveforms [B, T * hop_length]; see `Vocoder`.

        Raises:
            ValueError: a row has no frames.
        """
        return self.model(mel, mel_lens, Excitation(seeds))[0]

    def init_state(self, *, mode: VocoderMode, seed: int) -> HiftState:
        """State of a session that has heard nothing; see `Vocoder`."""
        empty = torch.zeros(0, 0, device=self._device)
        if mode == "reference":
            return HiftReferenceState(empty, empty, empty[0:0, 0:0].flatten(), 0, seed)
        tail = StageTail(empty)
        tails = (tail,) * self.config.num_stages
        cycles = torch.zeros(self.config.num_harmonics, dtype=torch.float64, device=self._device)
        return HiftExactState(tail, tail, tails, tail, tails, tail, cycles, seed)

    def step(
        self, mels: Sequence[Tensor], states: Sequence[HiftState], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[HiftState]]:
        """Advance sessions by their next mel frames; see `Vocoder`.

        Raises:
            ValueError: states of both modes are mixed.
        """
        exact = [state for state in states if isinstance(state, HiftExactState)]
        if len(exact) == len(states):
            return self._step_exact(mels, exact, last)
        reference = [state for state in states if isinstance(state, HiftReferenceState)]
        if len(reference) != len(states):
            raise ValueError("a batch must hold sessions of one streaming mode")
        return self._step_reference(mels, reference, last)

    # ---- exact ---------------------------------------------------------------------------------

    def _step_exact(
        self, mels: Sequence[Tensor], states: Sequence[HiftExactState], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[HiftState]]:
        model, reach = self.model, self.reach
        f0s, f0_tails = run_stage(
            reach.f0,
            lambda x, _, rows: model.f0_predictor(x, rows.lens),
            mels,
            [state.f0 for state in states],
            last,
        )
        phased, cycles = self._accumulate(f0s, [state.cycles for state in states])
        seeds = [state.seed for state in states]
        spectra, source_tails = run_stage(
            reach.source,
            lambda x, _, rows: self._source_spectrum(x, rows, seeds),
            phased,
            [state.source for state in states],
            last,
        )
        x, pre_tails = run_stage(
            reach.pre,
            lambda x, _, rows: model.pre(x, rows.lens),
            mels,
            [state.pre for state in states],
            last,
        )
        branch_tails, stage_tails = [], []
        for index in range(self.config.num_stages):
            x, branch_tail, stage_tail = self._ladder_stage(index, x, spectra, states, last)
            branch_tails.append(branch_tail)
            stage_tails.append(stage_tail)
        wavs, post_tails = run_stage(
            reach.post,
            lambda x, _, rows: model.post(x, rows.lens)[:, None],
            x,
            [state.post for state in states],
            last,
        )
        new_states: list[HiftState] = [
            HiftExactState(
                f0=f0_tails[i],
                source=source_tails[i],
                branches=tuple(tails[i] for tails in branch_tails),
                pre=pre_tails[i],
                stages=tuple(tails[i] for tails in stage_tails),
                post=post_tails[i],
                cycles=cycles[i],
                seed=seeds[i],
            )
            for i in range(len(states))
        ]
        return [wav.flatten() for wav in wavs], new_states

    def _accumulate(
        self, f0s: Sequence[Tensor], before: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """F0 with the phase of every harmonic, float64 [1 + H, n], and the last phases."""
        phased, after = [], []
        for f0, start in zip(f0s, before, strict=True):
            if not f0.shape[-1]:
                phased.append(f0.new_zeros(0, 0, dtype=torch.float64))
                after.append(start)
                continue
            cycles = self.model.m_source.cycles(f0[None], start[None])[0]
            phased.append(torch.cat([f0.double(), cycles]))
            after.append(cycles[:, -1].clone())
        return phased, after

    def _source_spectrum(self, phased: Tensor, rows: Rows, seeds: Sequence[int]) -> Tensor:
        hop = self.config.hop_length
        noise_at = ([seeds[i] for i in rows.sessions], [start * hop for start in rows.starts])
        f0 = phased[:, :1].to(self.model.m_source.l_linear.weight.dtype)
        source = self.model.m_source(f0, phased[:, 1:], rows.lens, noise_at)
        return self.model.spectrum(source, [length * hop for length in rows.lens])

    def _ladder_stage(
        self,
        index: int,
        x: list[Tensor],
        spectra: list[Tensor],
        states: Sequence[HiftExactState],
        last: Sequence[bool],
    ) -> tuple[list[Tensor], list[StageTail], list[StageTail]]:
        def ladder(x: Tensor, side: Tensor | None, rows: Rows) -> Tensor:
            assert side is not None, "a stage of the ladder hears the source"
            return self.model.stage(index, x, side, rows.lens)

        sides, branch_tails = run_stage(
            self.reach.branches[index],
            lambda x, _, rows: self.model.branch(index, x, rows.lens),
            spectra,
            [state.branches[index] for state in states],
            last,
        )
        tails = [state.stages[index] for state in states]
        out, stage_tails = run_stage(self.reach.stages[index], ladder, x, tails, last, sides)
        return out, branch_tails, stage_tails

    # ---- reference -----------------------------------------------------------------------------

    def _step_reference(
        self, mels: Sequence[Tensor], states: Sequence[HiftReferenceState], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[HiftState]]:
        heard = [
            torch.cat([state.mel.reshape(self.num_mels, -1), mel], dim=-1)
            for state, mel in zip(states, mels, strict=True)
        ]
        # A session without new frames waits, unless it must give what it holds back.
        active = [i for i, mel in enumerate(mels) if mel.shape[-1]]
        outputs = {i: states[i].speech[: None if last[i] else 0] for i in range(len(states))}
        new_states: list[HiftState] = list(states)
        if not active:
            return list(outputs.values()), new_states
        lens = [heard[i].shape[-1] for i in active]
        firsts = [states[i].num_frames - states[i].mel.shape[-1] for i in active]
        excitation = Excitation(
            seeds=[states[i].seed for i in active],
            first_samples=[first * self.hop_length for first in firsts],
            cached=[states[i].source.reshape(1, -1) for i in active],
        )
        wavs, sources = self.model(stack_rows([heard[i] for i in active]), lens, excitation)
        for row, i in enumerate(active):
            samples = lens[row] * self.hop_length
            speech = self._faded(wavs[row, :samples], states[i].speech)
            kept_frames = min(self.config.stream_cache_frames, lens[row])
            kept = kept_frames * self.hop_length
            outputs[i] = speech if last[i] else speech[: samples - kept]
            new_states[i] = replace(
                states[i],
                mel=heard[i][:, -kept_frames:].clone(),
                source=sources[row, :, samples - kept : samples].clone(),
                speech=speech[samples - kept :].clone(),
                num_frames=states[i].num_frames + mels[i].shape[-1],
            )
        return list(outputs.values()), new_states

    @staticmethod
    def _faded(speech: Tensor, held: Tensor) -> Tensor:
        size = len(held)
        if not size:
            return speech
        window = fade_window(size, device=speech.device)
        joint = speech[:size] * window[:size] + held * window[size:]
        return torch.cat([joint, speech[size:]])
