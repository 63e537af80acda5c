"""What both ways of decoding mel can do, and which one a flow uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.flow_config import StreamingMode
from stepaudio.models.token2wav.flow_exact import ExactMelDecoder
from stepaudio.models.token2wav.flow_reference import ReferenceMelDecoder

Voice = TypeVar("Voice")
State = TypeVar("State")


class MelDecoder(Protocol[Voice, State]):
    """Audio tokens to mel. Voices and states are values that calls take and return."""

    def prepare(self, prompt: VoicePrompt) -> Voice:
        """Decode a prompt once for all streams in its voice."""

    def generate(self, tokens: Tensor, voice: Voice, *, seed: int | None = None) -> Tensor:
        """Decode all tokens [n] to mel [C, n * frames per token]."""

    def init_state(self, voice: Voice, *, seed: int | None = None) -> State:
        """State of a stream before its first token."""

    def step(
        self, tokens: Sequence[Tensor], states: Sequence[State], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[State]]:
        """Take the next tokens of every session and decode what is ready."""


def mel_decoder(flow: Flow, mode: StreamingMode) -> MelDecoder[Any, Any]:
    """Decoder of a mode over the weights of `flow`."""
    return ExactMelDecoder(flow) if mode == "exact" else ReferenceMelDecoder(flow)
