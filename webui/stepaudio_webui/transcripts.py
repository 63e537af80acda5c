"""Recordings to transcripts, files to download, and the kinds of decoding side by side."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stepaudio.cli.formats import SUFFIXES, Result, render
from stepaudio.cli.outputs import output_stems
from stepaudio.errors import CapacityError, StepAudioError
from stepaudio_webui.backend import Backend, TranscribeOptions
from stepaudio_webui.notices import named

if TYPE_CHECKING:
    from stepaudio.models.mtp import MultiTokenPredictor
    from stepaudio.tasks.asr import Transcriber
    from stepaudio.tasks.recognizer import Decoding
    from stepaudio.tasks.step_audio import StepAudio
    from stepaudio.tasks.transcript import Transcript

MAX_S = 30 * 60.0  # what a browser still shows well
MAX_COMPARED_S = 5 * 60.0

OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class Heard:
    """A recording that was written down.

    Attributes:
        result: with its name, for the files.
        wall_s: seconds that it took, waiting included.
    """

    result: Result
    wall_s: float


def parse_hotwords(text: str | None) -> tuple[str, ...]:
    """Names and terms between commas, semicolons or line ends, each once.

    Raises:
        ConfigError: there are too many, or one is too long.
    """
    from stepaudio.text.hotwords import Hotwords

    return Hotwords.parse(text).phrases


def check_length(path: Path, longest_s: float = MAX_S) -> float:
    """Duration of a recording in seconds.

    Raises:
        AudioLoadError: it cannot be read.
        CapacityError: it is too long for the page.
    """
    from stepaudio.audio.io import probe_duration_s

    duration_s = probe_duration_s(path, name=path.name)
    if duration_s > longest_s:
        raise CapacityError(
            f"{path.name} lasts {duration_s / 60:.0f} minutes; this works up to "
            f"{longest_s / 60:.0f}. Cut it, or use `stepaudio asr`, which takes any length."
        )
    return duration_s


def hear(
    backend: Backend,
    path: Path,
    hotwords: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> Heard:
    """Write down a recording.

    Raises:
        StepAudioError: it cannot be read, is too long, or the model cannot.
    """
    check_length(path)
    model = backend.wait_ready().model
    started = time.perf_counter()
    options = TranscribeOptions(keywords=tuple(hotwords), on_progress=on_progress)
    transcript = backend.transcribe(path, options)
    return Heard(Result(path.name, transcript, model), time.perf_counter() - started)


# ---- files ---------------------------------------------------------------------------------------


def save_exports(result: Result, folder: Path) -> dict[str, Path]:
    """Write a transcript as text, JSON and subtitles; returns the files by their format.

    Raises:
        OutputError: they cannot be written.
    """
    from stepaudio.atomic import write_text_atomic

    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, suffix in SUFFIXES.items():
        files[kind] = folder / f"{Path(result.file).stem}{suffix}"
        write_text_atomic(files[kind], render(kind, result))
    return files


def save_archive(results: Sequence[Result], path: Path) -> Path:
    """Write transcripts of many recordings, each in every format, as one zip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stems = output_stems([result.file for result in results])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for stem, result in zip(stems, results, strict=True):
            for kind, suffix in SUFFIXES.items():
                archive.writestr(f"{stem}{suffix}", render(kind, result))
    return path


# ---- many recordings -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one of many recordings: its transcript, or why there is none."""

    name: str
    heard: Heard | None
    cause: str = ""


def hear_one_of_many(
    backend: Backend, path: Path, hotwords: Sequence[str], on_progress: OnProgress
) -> Outcome:
    """Write down a recording; what is wrong with it is its own matter."""
    try:
        return Outcome(path.name, hear(backend, path, hotwords, on_progress))
    except StepAudioError as error:
        cause = named(error, path)
        return Outcome(path.name, None, cause.removeprefix(f"{path.name}: "))


# ---- kinds of decoding ---------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodingRun:
    """One kind of decoding at work.

    Attributes:
        name: for people.
        transcript: with its cost.
    """

    name: str
    transcript: Transcript

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that one pass of the decoder confirms."""
        return self.transcript.stats.mean_accepted


@dataclass(frozen=True)
class Comparison:
    """Kinds of decoding on one recording; a note says which one is missing, and why."""

    runs: tuple[DecodingRun, ...]
    note: str = ""


class DecodingComparison:
    """Greedy and multi-token decoding of the backend's model; the copies are built once.

    Args:
        backend: its model must be on this computer.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._transcribers: dict[str, Transcriber] | None = None

    def run(self, path: Path) -> Comparison:
        """Decode a recording both ways, one after the other.

        Raises:
            ConfigError: the model is behind a server, or does not write down speech.
            CapacityError: the recording is too long for this.
            AudioLoadError: it cannot be read.
        """
        with self._backend.local_model() as model:
            model.require("asr")
            check_length(path, MAX_COMPARED_S)
            if self._transcribers is None:
                self._transcribers = _transcribers(model)
            runs = tuple(
                DecodingRun(name, transcriber.transcribe(path, name=path.name))
                for name, transcriber in self._transcribers.items()
            )
        return Comparison(runs, "" if len(runs) > 1 else _without_blocks(model.name))


def _transcribers(model: StepAudio) -> dict[str, Transcriber]:
    import torch

    from stepaudio.audio.frames import SAMPLE_RATE
    from stepaudio.models.mtp_file import find_predictor, load_predictor
    from stepaudio.tasks.asr import Transcriber

    def build(decoding: Decoding, blocks: MultiTokenPredictor | None = None) -> Transcriber:
        return Transcriber(
            model.model,
            model.tokenizer,
            decoding=decoding,
            blocks=blocks,
            precision=model.precision,
        )

    made = {"Greedy": build("greedy")}
    file = None if model.folder is None else find_predictor(model.folder)
    if file is not None:
        made["Multi-token"] = build("mtp", load_predictor(file, model.model))
    for transcriber in made.values():
        transcriber.transcribe_pieces([torch.zeros(SAMPLE_RATE)])  # the first run is slower
    return made


def _without_blocks(name: str) -> str:
    return (
        f"{name} has no prediction blocks (mtp.safetensors), so multi-token decoding cannot run. "
        "`stepaudio-train run mtp` trains them; put the file beside the model's weights."
    )
