"""Audio tokens to sound: whole, streamed, and for many sessions at once.

`Token2Wav` joins mel decoder and vocoder; all memory of a session is a `SpeechState`, a value.
`SpeechStream` and `StreamBatch` hold such values for callers who want an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepaudio.audio.decoding import AudioSource
from stepaudio.errors import AudioTokenError, ConfigError
from stepaudio.models.devices import resolve_device
from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.flow_config import StreamingMode
from stepaudio.models.token2wav.folder import load_parts, token2wav_folder
from stepaudio.models.token2wav.mel_decoder import mel_decoder
from stepaudio.models.token2wav.vocoder import Vocoder
from stepaudio.models.token2wav.voice import VoicePreparer, default_cache_folder

_FRAMES_PER_CALL = 500  # bounds the memory of the vocoder for long speech


@dataclass(frozen=True)
class SpeechVoice:
    """A voice that is ready to speak; any number of sessions share it."""

    mel: Any


@dataclass(frozen=True)
class SpeechState:
    """Streaming state of one session: that of the mel decoder and that of the vocoder."""

    mel: Any
    vocoder: Any


class Token2Wav:
    """Audio tokens to waveforms.

    Args:
        flow: tokens to mel.
        vocoder: mel to sound.
        voices: recordings to voice prompts.
        mode: "exact" (streamed sound equals offline sound) or "reference" (as the public code);
            None: the one of the checkpoint.

    Raises:
        ConfigError: the vocoder cannot stream in this mode.
    """

    def __init__(
        self,
        flow: Flow,
        vocoder: Vocoder[Any],
        voices: VoicePreparer,
        *,
        mode: StreamingMode | None = None,
    ) -> None:
        self.flow = flow
        self.vocoder = vocoder
        self.voices = voices
        self.mode: StreamingMode = mode or flow.config.streaming.mode
        if self.mode not in vocoder.modes:
            raise ConfigError(
                f"this checkpoint's vocoder streams in mode {' and '.join(vocoder.modes)} only, "
                f"not in mode {self.mode}"
            )
        self._mel = mel_decoder(flow, self.mode)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        revision: str | None = None,
        mode: StreamingMode | None = None,
        cache_folder: Path | None = None,
    ) -> Token2Wav:
        """Load the public ``token2wav`` folder or one of ours.

        Args:
            source: that folder, the folder of a checkpoint that has it, a model's name, or the id
                of a Hub repository.
            device: where flow and vocoder run; "auto": a GPU where there is one.
            revision: branch, tag or commit of a repository.
            mode: see the class.
            cache_folder: where prepared voices are kept; None: in the user's cache.

        Raises:
            CheckpointError: files are missing or damaged, or do not fit each other.
            ConfigError: a configuration is incomplete or contradictory.
        """
        chosen = resolve_device(device)
        parts = load_parts(token2wav_folder(source, revision=revision), device=chosen)
        voices = VoicePreparer(parts.encoders, cache_folder=cache_folder or default_cache_folder())
        return cls(parts.flow, parts.vocoder, voices, mode=mode)

    @property
    def sample_rate(self) -> int:
        """Of the sound in Hz."""
        return self.vocoder.sample_rate

    def tokenize(self, wav: Tensor) -> Tensor:
        """16 kHz mono speech [samples] to audio tokens, int64 [n]."""
        return self.voices.encoders.tokenizer.tokenize(wav)

    def prepare_voice(
        self, source: AudioSource | VoicePrompt, *, name: str | None = None
    ) -> SpeechVoice:
        """Prepare a voice from a recording, or from features of one.

        Args:
            source: path, encoded bytes or binary file object, or the features.
            name: how errors name the recording; its path if omitted.

        Raises:
            AudioLoadError: the recording cannot be read.
            VoiceError: it is too short, silent, clipped, or of an unsupported sample rate.
        """
        if not isinstance(source, VoicePrompt):
            source = self.voices.prepare(source, name=name)
        return SpeechVoice(self._mel.prepare(source))

    @torch.no_grad()
    def synthesize(
        self, codes: Sequence[int] | Tensor, voice: SpeechVoice, *, seed: int | None = None
    ) -> Tensor:
        """Speak all audio tokens.

        Args:
            codes: audio tokens, 0 to the size of the codebook.
            voice: what `prepare_voice` returned.
            seed: of all noise; None: the one of the checkpoint.

        Returns:
            float32 [samples] on the CPU, at `sample_rate`.

        Raises:
            AudioTokenError: there is no token, or one outside of the codebook.
        """
        seed = self._seed(seed)
        mel = self._mel.generate(_as_tokens(codes), voice.mel, seed=seed).float()
        if self.mode == "reference":
            return self.vocoder.synthesise(mel[None], [mel.shape[-1]], seeds=[seed])[0].cpu()
        state = self.vocoder.init_state(mode=self.mode, seed=seed)
        pieces = mel.split(_FRAMES_PER_CALL, dim=-1)
        wavs = []
        for index, piece in enumerate(pieces):
            [wav], [state] = self.vocoder.step([piece], [state], [index == len(pieces) - 1])
            wavs.append(wav.cpu())
        return torch.cat(wavs)

    def init_state(self, voice: SpeechVoice, *, seed: int | None = None) -> SpeechState:
        """State of a session before its first token."""
        seed = self._seed(seed)
        return SpeechState(
            self._mel.init_state(voice.mel, seed=seed),
            self.vocoder.init_state(mode=self.mode, seed=seed),
        )

    @torch.no_grad()
    def step(
        self,
        codes: Sequence[Sequence[int] | Tensor],
        states: Sequence[SpeechState],
        last: Sequence[bool],
    ) -> tuple[list[Tensor], list[SpeechState]]:
        """Take the next tokens of every session, and speak what is ready.

        Args:
            codes: any number of audio tokens for every session.
            states: what `init_state` or the previous call returned; they are not changed.
            last: whether a session's tokens end here; then the rest is spoken too.

        Returns:
            New samples, float32 on the CPU, and the new state of every session.

        Raises:
            AudioTokenError: a token is outside of the codebook.
            ValueError: a session has already ended.
        """
        if not states:
            return [], []
        tokens = [_as_tokens(part) for part in codes]
        mels, mel_states = self._mel.step(tokens, [state.mel for state in states], last)
        wavs, vocoder_states = self.vocoder.step(
            [mel.float() for mel in mels], [state.vocoder for state in states], last
        )
        pairs = zip(mel_states, vocoder_states, strict=True)
        return [wav.cpu() for wav in wavs], [SpeechState(*pair) for pair in pairs]

    def stream(self, voice: SpeechVoice, *, seed: int | None = None) -> SpeechStream:
        """Begin to speak in one session."""
        return SpeechStream(self, self.init_state(voice, seed=seed))

    def _seed(self, seed: int | None) -> int:
        return self.flow.config.sampler.noise_seed if seed is None else seed


class SpeechStream:
    """One session; every call returns the sound that is ready, float32 [samples].

    Args:
        engine: shared by all sessions.
        state: where this one begins.
    """

    def __init__(self, engine: Token2Wav, state: SpeechState) -> None:
        self._engine = engine
        self.state = state

    def push(self, codes: Sequence[int] | Tensor) -> Tensor:
        """Take the next audio tokens, any number of them.

        Raises:
            AudioTokenError: a token is outside of the codebook.
            ValueError: the stream has been finished.
        """
        return self._advance(codes, last=False)

    def finish(self, codes: Sequence[int] | Tensor = ()) -> Tensor:
        """Take the last audio tokens, if there are any, and give all sound that is left.

        Raises:
            AudioTokenError: a token is outside of the codebook.
            ValueError: the stream has been finished before.
        """
        return self._advance(codes, last=True)

    def _advance(self, codes: Sequence[int] | Tensor, *, last: bool) -> Tensor:
        [wav], [self.state] = self._engine.step([codes], [self.state], [last])
        return wav


class StreamBatch:
    """Sessions that are advanced together; they come and go at any time.

    Args:
        engine: shared by all sessions.
    """

    def __init__(self, engine: Token2Wav) -> None:
        self._engine = engine
        self._states: dict[int, SpeechState] = {}
        self._pending: dict[int, list[Tensor]] = {}
        self._ending: set[int] = set()
        self._next = 0

    def __len__(self) -> int:
        """Number of open sessions."""
        return len(self._states)

    def open(self, voice: SpeechVoice, *, seed: int | None = None) -> int:
        """Begin a session; returns its number."""
        session, self._next = self._next, self._next + 1
        self._states[session] = self._engine.init_state(voice, seed=seed)
        self._pending[session] = []
        return session

    def push(self, session: int, codes: Sequence[int] | Tensor, *, last: bool = False) -> None:
        """Hand over the next audio tokens of a session for the next `step`.

        Raises:
            AudioTokenError: a token is outside of the codebook; the session goes on without them.
            ValueError: the session is unknown, or its last tokens have been given.
        """
        if session not in self._states or session in self._ending:
            raise ValueError(f"session {session} has ended or never began")
        self._pending[session].append(self._engine.flow.check_tokens(_as_tokens(codes)))
        if last:
            self._ending.add(session)

    def step(self) -> dict[int, Tensor]:
        """Advance every session that has been given something; those that end are closed.

        Returns:
            New samples of each of them, float32 on the CPU; there may be none.
        """
        ready = [n for n in self._states if self._pending[n] or n in self._ending]
        if not ready:
            return {}
        codes = [torch.cat(self._pending[n]) for n in ready]
        last = [n in self._ending for n in ready]
        wavs, states = self._engine.step(codes, [self._states[n] for n in ready], last)
        for session, state, ended in zip(ready, states, last, strict=True):
            self._states[session], self._pending[session] = state, []
            if ended:
                self.close(session)
        return dict(zip(ready, wavs, strict=True))

    def close(self, session: int) -> None:
        """Forget a session, such as one that was interrupted.

        Raises:
            ValueError: the session is unknown.
        """
        if session not in self._states:
            raise ValueError(f"session {session} has ended or never began")
        del self._states[session], self._pending[session]
        self._ending.discard(session)


def _as_tokens(codes: Sequence[int] | Tensor) -> Tensor:
    if isinstance(codes, Tensor):
        return codes
    given = list(codes)
    # Not as int64 at once, which would cut fractions off.
    try:
        return torch.tensor(given) if given else torch.zeros(0, dtype=torch.long)
    except (TypeError, ValueError, RuntimeError) as error:  # a number of more than 64 bits, too
        raise AudioTokenError(f"audio tokens must be integers of shape [n]: {error}") from error
