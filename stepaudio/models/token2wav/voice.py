"""Voice prompts from recordings, prepared once and kept (specification, section 10).

How recordings are judged: shorter than a second, silent, or clipped in most of their peaks they are
refused; with some clipping they are accepted with a warning; longer than the limit they are cut
there, with a warning too, because the memory of a stream grows with its prompt.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from stepaudio.atomic import write_bytes_atomic
from stepaudio.audio.decoding import AudioSource, MonoMix, open_decoder, source_name
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import iter_audio_blocks
from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.audio.resample import resample
from stepaudio.errors import OutputError, VoiceError
from stepaudio.models.token2wav.flow import VoicePrompt
from stepaudio.models.token2wav.speaker import SpeakerEncoder
from stepaudio.models.token2wav.tokenizing import SpeechTokenizer

_FORMAT = 1  # of cached files; a new number makes all of them old
_LOGGER = logging.getLogger(__name__)
_FULL_SCALE = 0.999
_LEVEL_WINDOW_S = 0.1
_HELD_IN_MEMORY = 16


@dataclass(frozen=True, kw_only=True)
class VoiceLimits:
    """Which recordings can serve as a voice.

    Attributes:
        shortest_s: shorter ones are refused.
        longest_s: only so much of the beginning is used. The public code's buffer of 1000 frames
            allows about 16 s.
        lowest_rate: lowest sample rate in Hz.
        highest_rate: highest sample rate in Hz.
        quietest: refused if no tenth of a second is louder, as root mean square around its mean
            (-60 dBFS).
        clipped_warning: share of samples at full scale from which a warning is given.
        clipped_refusal: share of samples at full scale from which a recording is refused.
    """

    shortest_s: float = 1.0
    longest_s: float = 15.0
    lowest_rate: int = 8_000
    highest_rate: int = 96_000
    quietest: float = 1e-3
    clipped_warning: float = 1e-3
    clipped_refusal: float = 0.1


@dataclass(frozen=True, kw_only=True)
class VoiceEncoders:
    """What turns a recording into a prompt.

    Attributes:
        tokenizer: speech to audio tokens.
        speaker: speech to a speaker embedding.
        mel: mel of the vocoder.
        frames_per_token: mel frames for every audio token.
        fingerprint: identifies tokenizer and speaker encoder, see `fingerprint_of`. Prompts of
            others are not taken from the cache.
    """

    tokenizer: SpeechTokenizer
    speaker: SpeakerEncoder
    mel: VoiceMel
    frames_per_token: int
    fingerprint: str


def default_cache_folder() -> Path:
    """Folder of prepared voices in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "stepaudio" / "voices"


def fingerprint_of(files: Iterable[str | Path]) -> str:
    """Hash of the contents of weight files, for `VoiceEncoders`."""
    digests = "".join(_file_digest(path) for path in files)
    return hashlib.sha256(digests.encode()).hexdigest()


def _file_digest(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class VoicePreparer:
    """Prepares voice prompts and keeps them, by the content of the recording.

    Args:
        encoders: what turns a recording into a prompt.
        limits: which recordings are accepted.
        cache_folder: where prepared voices are kept between runs; None: nowhere. A folder that
            cannot be written is no error.
    """

    def __init__(
        self,
        encoders: VoiceEncoders,
        *,
        limits: VoiceLimits | None = None,
        cache_folder: Path | None = None,
    ) -> None:
        self.encoders = encoders
        self.limits = limits or VoiceLimits()
        self.cache_folder = cache_folder
        self._held: OrderedDict[str, VoicePrompt] = OrderedDict()
        self._lock = Lock()

    def prepare(self, source: AudioSource, *, name: str | None = None) -> VoicePrompt:
        """Prepare a voice, or return what was prepared of the same content before.

        Tokens and speaker come from the first channel, the mel from the mean of all (as in the
        public code).

        Args:
            source: recording of any common format: path, encoded bytes or binary file object.
            name: how errors name it; its path if omitted.

        Raises:
            AudioLoadError: the recording cannot be read.
            VoiceError: it is too short, silent, clipped, or of an unsupported sample rate.
        """
        name = name or source_name(source)
        content = source if isinstance(source, str | Path | bytes) else source.read()
        key = self._key(content, name)
        with self._lock:
            prompt = self._held.get(key)
        if prompt is None:
            prompt = self._from_disk(key)
        if prompt is None:
            prompt = self._prepared(content, name)
            self._to_disk(key, prompt)
        with self._lock:
            self._held[key] = prompt
            self._held.move_to_end(key)
            while len(self._held) > _HELD_IN_MEMORY:
                self._held.popitem(last=False)
        return prompt

    # ---- cache ---------------------------------------------------------------------------------

    def _key(self, content: str | Path | bytes, name: str) -> str:
        if isinstance(content, bytes):
            digest = hashlib.sha256(content).hexdigest()
        else:
            with open_decoder(content, name=name):  # errors of files that cannot be opened
                digest = _file_digest(content)
        encoders = self.encoders
        parts = (_FORMAT, digest, encoders.fingerprint, encoders.mel, encoders.frames_per_token)
        return hashlib.sha256(repr((*parts, self.limits)).encode()).hexdigest()

    def _path(self, key: str) -> Path | None:
        return None if self.cache_folder is None else self.cache_folder / f"{key}.safetensors"

    def _from_disk(self, key: str) -> VoicePrompt | None:
        path = self._path(key)
        if path is None:
            return None
        try:
            stored = safetensors.torch.load(path.read_bytes())
            return VoicePrompt(stored["tokens"], stored["mel"], stored["speaker"])
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            _LOGGER.info("%s: cannot be used (%s); the voice is prepared anew", path, error)
            return None

    def _to_disk(self, key: str, prompt: VoicePrompt) -> None:
        path = self._path(key)
        if path is None:
            return
        tensors = {"tokens": prompt.tokens, "mel": prompt.mel, "speaker": prompt.speaker}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(path, safetensors.torch.save(tensors))
        except (OSError, OutputError) as error:
            _LOGGER.info("%s: the voice is not kept (%s)", path, error)

    # ---- preparation ---------------------------------------------------------------------------

    def _prepared(self, content: str | Path | bytes, name: str) -> VoicePrompt:
        encoders = self.encoders
        first, rate = self._read(content, name, "first")
        self._check(first, rate, name)
        mixed, _ = self._read(content, name, "mean")
        speech = resample(first, rate, SAMPLE_RATE)
        tokens = encoders.tokenizer.tokenize(speech).cpu()
        speaker = encoders.speaker.embed(speech).cpu()
        mel = encoders.mel(resample(mixed, rate, encoders.mel.sample_rate))
        return VoicePrompt(
            tokens, fit_frames(mel, len(tokens) * encoders.frames_per_token), speaker
        )

    def _read(self, content: str | Path | bytes, name: str, mono: MonoMix) -> tuple[Tensor, int]:
        """The beginning of a recording at its own rate."""
        limits = self.limits
        with open_decoder(content, name=name) as stream:
            rate, announced = stream.sample_rate, stream.num_samples
        if not limits.lowest_rate <= rate <= limits.highest_rate:
            raise VoiceError(
                f"{name}: its sample rate of {rate} Hz is outside of {limits.lowest_rate} to "
                f"{limits.highest_rate} Hz; convert it, or take another recording"
            )
        blocks = iter_audio_blocks(
            content, limits.longest_s, sample_rate=rate, mono=mono, name=name
        )
        samples = next(blocks)
        if mono == "first" and announced is not None and announced > len(samples):
            _LOGGER.warning(
                "%s: lasts %.1f s; only its first %g s are used as voice",
                name,
                announced / rate,
                limits.longest_s,
            )
        return samples, rate

    def _check(self, samples: Tensor, rate: int, name: str) -> None:
        limits = self.limits
        if len(samples) < limits.shortest_s * rate:
            raise VoiceError(
                f"{name}: lasts {len(samples) / rate:.2f} s, but a voice needs at least "
                f"{limits.shortest_s:g} s; 5 to 10 s of clear speech work best"
            )
        window = int(_LEVEL_WINDOW_S * rate)
        levels = samples[: len(samples) // window * window].reshape(-1, window)
        if float(levels.std(dim=1, correction=0).max()) < limits.quietest:
            raise VoiceError(
                f"{name}: its first channel is silent; record it louder, or take another one"
            )
        clipped = float((samples.abs() >= _FULL_SCALE).float().mean())
        if clipped >= limits.clipped_refusal:
            raise VoiceError(
                f"{name}: {clipped:.0%} of its samples are clipped; record it at a lower level"
            )
        if clipped >= limits.clipped_warning:
            _LOGGER.warning("%s: %.1f %% of its samples are clipped", name, 100 * clipped)


def fit_frames(mel_MT: Tensor, num_frames: int) -> Tensor:
    """Cut a mel to a number of frames, or repeat its last frame up to there."""
    missing = num_frames - mel_MT.shape[-1]
    if missing <= 0:
        return mel_MT[:, :num_frames].contiguous()
    return F.pad(mel_MT[None], (0, missing), mode="replicate")[0]
