"""What every vocoder can do: mel to sound, whole or streamed, for many sessions at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from torch import Tensor

VocoderMode = Literal["reference", "exact"]
State = TypeVar("State")


class Vocoder(Protocol[State]):
    """Mel to waveform.

    A state belongs to one session and is passed and returned. A call of `step` may serve any
    sessions together, with any number of new frames each.
    """

    @property
    def sample_rate(self) -> int:
        """Of the waveform in Hz."""

    @property
    def num_mels(self) -> int:
        """Mel bands."""

    @property
    def hop_length(self) -> int:
        """Samples for every mel frame."""

    @property
    def modes(self) -> tuple[VocoderMode, ...]:
        """Ways in which it can stream."""

    def synthesise(
        self, mel: Tensor, mel_lens: Sequence[int], *, seeds: Sequence[int] | None
    ) -> Tensor:
        """Turn whole mels [B, M, T] into waveforms [B, T * hop_length], zero behind each end.

        Args:
            mel: float32; what lies behind a row's length is ignored.
            mel_lens: frames of every row.
            seeds: seed of every row's noise; None: no noise.
        """

    def init_state(self, *, mode: VocoderMode, seed: int) -> State:
        """State of a session that has heard nothing.

        Args:
            mode: "exact": all samples together equal `synthesise` of all frames together;
                "reference": as the public code, with cross-faded joints.
            seed: of the session's noise.
        """

    def step(
        self, mels: Sequence[Tensor], states: Sequence[State], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[State]]:
        """Advance sessions by their next mel frames.

        Args:
            mels: [M, n] with any n, none included, for every session.
            states: of the same sessions, all of one mode.
            last: whether a session's mel ends here; all remaining samples are given.

        Returns:
            New samples [n'] and the new state of every session.
        """
