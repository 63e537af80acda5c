"""Synthetic speech from free synthesizers: many voices, seeded, in shards that can be resumed.

A shard is a raw file of little-endian int16 samples at 16 kHz beside a manifest whose rows point
into it (`offset` and `num_samples`). Each utterance is drawn from its own seed, so neither the
number of jobs nor the number of shards changes what a shard holds.
"""

import hashlib
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.errors import StepAudioError
from stepaudio_recipes.corpora import Row, read_manifest, write_manifest
from stepaudio_recipes.utterances import TextSampler, Utterance

SHARD_S = 900.0
SYNTH_VERSION = 1
_UTTERANCES_PER_SHARD = 1024
_TIMEOUT_S = 30.0

ESPEAK_ACCENTS = (
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip
# Whispering, effects and voices that people cannot follow are left out, and the held-out ones.
ESPEAK_VARIANTS = (
    "adam", "Alex", "Alicia", "Andrea", "Annie", "antonio", "aunty", "belinda", "benjamin",
    "boris", "caleb", "david", "Denis", "Diogo", "ed", "edward", "edward2", "Gene", "Gene2",
    "gustave", "Henrique", "Hugo", "iven", "iven2", "iven3", "iven4", "Jacky", "john",
    "kaukovalta", "Lee", "linda", "marcelo", "Marco", "Mario", "max", "Michael", "michel",
    "miguel", "Mike", "Mr serious", "Nguyen", "pablo", "paul", "pedro", "quincy", "rob", "robert",
    "steph", "steph2", "steph3", "travis", "victor", "zac", "anika", "f1", "f2", "f3", "f5",
    "klatt", "klatt2", "klatt3", "klatt4", "m1", "m2", "m3", "m4", "m5", "m6", "m8", "norbert",
    "sandro", "shelby", "grandma", "grandpa",
)  # fmt: skip
HELD_OUT_ACCENT = "en-gb-x-gbclan"
HELD_OUT_VARIANTS = ("f4", "m7", "Andy")
HELD_OUT_VOICES = ("en-gb-x-gbclan+f4", "en-gb-x-gbclan+m7", "en-us+Andy")
# Voice to its usual pitch in Hz, None where the voice ignores the setting.
FLITE_VOICES = {"slt": 175.0, "rms": None, "awb": 130.0, "kal16": 105.0, "kal": 105.0}
NATURAL_FLITE_SHARES = (("slt", 0.55), ("rms", 0.25), ("awb", 0.15), ("kal16", 0.05))
FESTIVAL_VOICES = ("voice_ked_diphone", "voice_cmu_us_slt_arctic_hts")

# Share of each synthesizer in the utterances.
SYNTHESIZER_SHARES = {"espeak-ng": 0.6, "flite": 0.36, "text2wave": 0.04}

_SILENCE_BELOW_PEAK = 10 ** (-45 / 20)
_MIN_S_PER_LETTER, _MAX_S_PER_LETTER, _MAX_EXTRA_S = 0.02, 0.3, 1.0

Samples = NDArray[np.int16]


class SynthesisError(StepAudioError):
    """A synthesizer refused a text, or what it gave cannot be that text."""


@dataclass(frozen=True)
class Voice:
    """One way to speak: the program, its voice, and its options.

    Attributes:
        program: `espeak-ng`, `flite` or `text2wave`.
        name: The program's name of the voice (`en-gb+f2` for accent and variant of espeak-ng).
        options: Further command-line arguments (rate, pitch).
    """

    program: str
    name: str
    options: tuple[str, ...] = ()

    @property
    def speaker(self) -> str:
        """Name of the voice across programs, for the manifest."""
        return f"{self.program}/{self.name}"


@dataclass(frozen=True)
class VoicePool:
    """Voices that this machine can train with.

    Attributes:
        programs: The synthesizers that are installed, with the voices that we draw.
        espeak_variants: Installed variants of espeak-ng; it would silently fall back on its
            default voice for any other.
        flite_shares: Share of each voice of flite; None draws them alike.
    """

    programs: tuple[str, ...]
    espeak_variants: tuple[str, ...]
    flite_shares: tuple[tuple[str, float], ...] | None = None

    def natural(self) -> "VoicePool":
        """Only the voices made from recordings of American and Scottish people.

        A small model learns from few clear voices in a fraction of the time that it needs to
        follow hundreds of formant voices, and these are nearer to people.

        Raises:
            StepAudioError: If flite is not installed.
        """
        if "flite" not in self.programs:
            raise StepAudioError("flite: not installed; install the package flite")
        return VoicePool(("flite",), (), NATURAL_FLITE_SHARES)

    def draw(self, rng: random.Random) -> Voice:
        """Draw a synthesizer by its share, then a voice and its rate and pitch."""
        shares = [SYNTHESIZER_SHARES[program] for program in self.programs]
        program = rng.choices(self.programs, shares)[0]
        if program == "espeak-ng":
            accent, variant = rng.choice(ESPEAK_ACCENTS), rng.choice(self.espeak_variants)
            rate, pitch = rng.randint(120, 210), rng.randint(20, 80)
            return Voice(program, f"{accent}+{variant}", ("-s", f"{rate}", "-p", f"{pitch}"))
        if program == "flite":
            name = self._flite_voice(rng)
            options = ["--setf", f"duration_stretch={rng.uniform(0.8, 1.25):.3f}"]
            if pitch_hz := FLITE_VOICES[name]:
                target_hz = pitch_hz * rng.uniform(0.8, 1.25)
                options += ["--setf", f"int_f0_target_mean={target_hz:.1f}"]
            return Voice(program, name, tuple(options))
        name = rng.choice(FESTIVAL_VOICES)
        stretch = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.8, 1.2):.3f})"
        return Voice(program, name, ("-eval", stretch))

    def _flite_voice(self, rng: random.Random) -> str:
        if self.flite_shares is None:
            return rng.choice(tuple(FLITE_VOICES))
        names, shares = zip(*self.flite_shares, strict=True)
        return str(rng.choices(names, shares)[0])


def installed_voices() -> VoicePool:
    """Find the synthesizers of this machine.

    Raises:
        StepAudioError: If espeak-ng, the only one that is required, is missing.
    """
    if not shutil.which("espeak-ng"):
        raise StepAudioError("espeak-ng: not installed; install the package espeak-ng")
    programs = tuple(name for name in SYNTHESIZER_SHARES if _is_usable(name))
    listing = _run(["espeak-ng", "--voices=variant"])
    installed = {line.split("!v/", 1)[1].strip() for line in listing.splitlines() if "!v/" in line}
    return VoicePool(programs, tuple(name for name in ESPEAK_VARIANTS if name in installed))


def _is_usable(program: str) -> bool:
    """Whether a program is installed, and festival with the voices that we draw."""
    if not shutil.which(program):
        return False
    if program != "text2wave":
        return True
    listing = _run(["festival", "-b", "(print (voice.list))"])
    names = set(listing.strip("() \n").split())
    return {voice.removeprefix("voice_") for voice in FESTIVAL_VOICES} <= names


def _run(command: Sequence[str], *, text: str | None = None) -> str:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise SynthesisError(f"{command[0]}: {error}") from error
    return done.stdout


def _command(voice: Voice, text: str, wav: Path) -> list[str]:
    if voice.program == "espeak-ng":
        return ["espeak-ng", "-v", voice.name, *voice.options, "-w", str(wav), text]
    if voice.program == "flite":
        return ["flite", "-voice", voice.name, *voice.options, "-t", text, "-o", str(wav)]
    return ["text2wave", "-o", str(wav), "-eval", f"({voice.name})", *voice.options]


def synthesize(voice: Voice, text: str, rng: random.Random) -> Samples:
    """Speak `text`, with 0.05 to 0.3 s of silence around it and a random peak level.

    Returns:
        int16 samples at 16 kHz, mono, shape (num_samples,).

    Raises:
        SynthesisError: If the program fails, gives silence, or gives a length that cannot be
            the text.
    """
    with tempfile.TemporaryDirectory(prefix="stepaudio-synth-") as folder:
        wav = Path(folder) / "speech.wav"
        _run(_command(voice, text, wav), text=text if voice.program == "text2wave" else None)
        try:
            speech, rate = soundfile.read(wav, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise SynthesisError(f"{voice.speaker}: no speech for {text!r} ({error})") from error
    peak = float(np.abs(speech).max(initial=0.0))
    loud = np.flatnonzero(np.abs(speech) > peak * _SILENCE_BELOW_PEAK)
    if not len(loud):
        raise SynthesisError(f"{voice.speaker}: silence for {text!r}")
    speech = soxr.resample(speech[loud[0] : loud[-1] + 1], rate, SAMPLE_RATE)
    duration_s, num_letters = len(speech) / SAMPLE_RATE, len(text)
    longest_s = num_letters * _MAX_S_PER_LETTER + _MAX_EXTRA_S
    if not num_letters * _MIN_S_PER_LETTER <= duration_s <= longest_s:
        raise SynthesisError(f"{voice.speaker}: {duration_s:.2f} s cannot be {text!r}")
    before, after = (round(rng.uniform(0.05, 0.3) * SAMPLE_RATE) for _ in range(2))
    level = rng.uniform(0.2, 0.8) / max(float(np.abs(speech).max()), 1e-6)
    padded = np.pad(speech * level, (before, after))
    return np.round(padded * np.iinfo(np.int16).max).astype(np.int16)


@dataclass(frozen=True)
class SynthPlan:
    """All that decides what the shards hold.

    Attributes:
        seed: Seed of every draw.
        voices: Voices to draw from.
        texts: Texts to draw from.
        shard_s: Seconds of audio after which a shard is full.
        first_shard: Number of the first shard; plans with other numbers speak other texts.
    """

    seed: int
    voices: VoicePool
    texts: TextSampler
    shard_s: float = SHARD_S
    first_shard: int = 0

    def fingerprint(self) -> str:
        """Return a short name of everything that changes the shards."""
        parts = (
            SYNTH_VERSION,
            self.shard_s,
            self.seed,
            self.first_shard,
            self.voices,
            self.texts.fingerprint(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def utterances(self, shard: int) -> Iterator[tuple[Utterance, Voice, random.Random]]:
        """Draw the utterances of a shard, each from a seed of its own."""
        first = (self.first_shard + shard) * _UTTERANCES_PER_SHARD
        for index in range(first, first + _UTTERANCES_PER_SHARD):
            # A string seed goes through SHA-512 and not through the salted hash().
            rng = random.Random(f"{self.seed}/{index}")
            yield self.texts.draw(rng, index), self.voices.draw(rng), rng


@dataclass(frozen=True)
class SynthResult:
    """Rows of the finished shards, and how many texts were skipped in making new ones."""

    rows: list[Row]
    num_failed: int


def synthesize_shards(
    plan: SynthPlan,
    synth_dir: Path,
    num_shards: int,
    *,
    jobs: int,
    progress: Callable[[int, int], None],
) -> SynthResult:
    """Make the first `num_shards` shards of a plan, skipping the finished ones.

    Args:
        plan: What to speak; its fingerprint names the folder of the shards, so that a changed
            plan never mixes with old shards.
        synth_dir: Parent folder.
        num_shards: Number of shards wanted in total.
        jobs: Synthesizer processes at a time (each is driven by a thread).
        progress: Called with the shards that are ready and their total.

    Returns:
        The rows of all `num_shards` shards, in order.
    """
    folder = synth_dir / plan.fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    num_failed = 0
    stop = Event()
    with ThreadPoolExecutor(max_workers=jobs) as executor:
        shards = range(num_shards)
        results = executor.map(lambda shard: _make_shard(plan, folder, shard, stop), shards)
        try:
            for done, (shard_rows, shard_failed) in enumerate(results, 1):
                rows += shard_rows
                num_failed += shard_failed
                progress(done, num_shards)
        finally:
            # After an error or Ctrl-C no thread may go on with its shard for minutes.
            stop.set()
    return SynthResult(rows, num_failed)


def _make_shard(plan: SynthPlan, folder: Path, shard: int, stop: Event) -> tuple[list[Row], int]:
    audio_path = (folder / f"shard_{shard:03d}.pcm").resolve()
    manifest_path = audio_path.with_suffix(".jsonl")
    # The manifest is written last: where it is, the audio is whole.
    if manifest_path.exists():
        rows = read_manifest(manifest_path)
        return [row | {"audio_filepath": str(audio_path)} for row in rows], 0
    temporary = audio_path.with_suffix(".pcm.partial")
    rows, offset, num_failed = [], 0, 0
    with temporary.open("wb") as output:
        for utterance, voice, rng in plan.utterances(shard):
            if stop.is_set():
                return [], 0
            try:
                samples = synthesize(voice, utterance.text, rng)
            except SynthesisError:
                num_failed += 1
                continue
            output.write(samples.astype("<i2").tobytes())
            place = {"offset": offset, "num_samples": len(samples)}
            rows.append(_row(str(audio_path), utterance, voice, len(samples)) | place)
            offset += len(samples)
            if offset >= plan.shard_s * SAMPLE_RATE:
                break
    if not rows:
        raise StepAudioError(f"{audio_path}: no synthesizer spoke any text; check them by hand")
    temporary.replace(audio_path)
    write_manifest(manifest_path, rows)
    return rows, num_failed


def _row(path: str, utterance: Utterance, voice: Voice, num_samples: int) -> dict[str, Any]:
    return {
        "audio_filepath": path,
        "text": utterance.text,
        "duration": round(num_samples / SAMPLE_RATE, 4),
        "language": "en",
        "speaker": voice.speaker,
        "source": f"synthetic/{utterance.source}",
        "license": utterance.license,
    }


def synthesize_test_set(sentences: Sequence[Utterance], folder: Path, *, seed: int) -> list[Row]:
    """Speak held-out sentences with the held-out voices, one FLAC file each.

    The voices take turns.

    Raises:
        SynthesisError: If espeak-ng cannot speak a sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, sentence in enumerate(sentences):
        rng = random.Random(f"{seed}/test/{index}")
        name = HELD_OUT_VOICES[index % len(HELD_OUT_VOICES)]
        rate, pitch = rng.randint(130, 190), rng.randint(35, 65)
        voice = Voice("espeak-ng", name, ("-s", f"{rate}", "-p", f"{pitch}"))
        samples = synthesize(voice, sentence.text, rng)
        path = (folder / f"{index:03d}.flac").resolve()
        temporary = path.with_suffix(".partial")
        soundfile.write(temporary, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        temporary.replace(path)
        rows.append(_row(str(path), sentence, voice, len(samples)))
    return rows
