"""``stepaudio asr`` as a user runs it. The words are nonsense here: a random model speaks."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from stepaudio.audio.io import load_audio
from stepaudio.cli import main

RATE = 16_000
MIN_KEYS = {"file", "text", "duration_s", "segments", "rtf", "model"}


# ---- inputs --------------------------------------------------------------------------------


def encode_av(path: Path, sound: np.ndarray, codec: str) -> None:
    """Write sound at 48 kHz with two channels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        pcm = np.repeat((sound * 32767).astype(np.int16), 2 * 3)  # both channels, three times
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode(None)])


def cut(source: Path, target: Path) -> Path:
    """Keep the first half of a file's bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    return target


@dataclass(frozen=True)
class Inputs:
    """Arguments of one big call, and what has to come of each file.

    Attributes:
        arguments: paths, folders, patterns and "-".
        stdin: what comes in through "-".
        good: files that hold speech, in order.
        silent: files without speech, behind the good ones.
        bad: files that cannot be read, and a word of the cause.
    """

    arguments: list[str]
    stdin: bytes
    good: list[str]
    silent: list[str]
    bad: dict[str, str]


@pytest.fixture(scope="session")
def speech(examples) -> np.ndarray:
    return load_audio(examples / "us_female_1.ogg").samples.numpy()


@pytest.fixture(scope="session")
def good_files(tmp_path_factory, examples, speech) -> Path:
    folder = tmp_path_factory.mktemp("good")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    shutil.copy(examples / "us_female_2.ogg", folder / ".hidden" / "unseen.ogg")
    (folder / "notes.txt").write_text("no audio")
    shutil.copy(examples / "us_female_2.ogg", folder / "a b\u00e9.OGG")
    soundfile.write(folder / "deep" / "speech.wav", speech, RATE)
    soundfile.write(folder / "deep" / "er" / "speech.flac", speech, RATE)
    soundfile.write(folder / "deep" / "speech.mp3", np.repeat(speech, 2), 2 * RATE)
    encode_av(folder / "speech.m4a", speech, "aac")
    encode_av(folder / "speech.webm", speech, "libopus")
    return folder


@pytest.fixture(scope="session")
def long_file(tmp_path_factory, examples) -> Path:
    """Three minutes: all examples, three times, with pauses."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    pause = np.zeros(RATE, dtype=np.float32)
    parts = [load_audio(file).samples.numpy() for file in sorted(examples.glob("us_*.ogg"))]
    parts.append(load_audio(examples / "long_us_female.ogg").samples.numpy())
    sound = np.concatenate([np.concatenate([part, pause]) for part in parts])
    soundfile.write(path, np.tile(sound, 4), RATE)
    return path


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory, good_files, speech) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.wav").touch()
    (folder / "renamed.wav").write_text("This is not a recording.\n" * 20)
    soundfile.write(folder / "no_samples.wav", speech[:0], RATE)
    spoiled = speech.copy()
    spoiled[1000] = np.nan
    soundfile.write(folder / "nan.wav", spoiled, RATE, subtype="FLOAT")
    (folder / "no_audio").mkdir()
    causes = {
        "missing.wav": "no such file",
        "empty.wav": "empty",
        "renamed.wav": "not audio",
        "no_samples.wav": "no samples",
        "nan.wav": "NaN",
        "no_audio": "folder",
        "*.nothing": "no such file",
    }
    for file in ("deep/speech.wav", "deep/er/speech.flac", "deep/speech.mp3", "speech.m4a"):
        name = f"cut_{Path(file).name}"
        cut(good_files / file, folder / name)
        causes[name] = "cut off"
    return {str(folder / name): cause for name, cause in causes.items()}


@pytest.fixture(scope="session")
def silent_files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("silent")
    soundfile.write(folder / "silence.flac", np.zeros(5 * RATE), RATE)
    soundfile.write(folder / "noise.flac", np.random.default_rng(0).normal(0, 0.02, 5 * RATE), RATE)
    return [str(folder / "silence.flac"), str(folder / "noise.flac")]


@pytest.fixture(scope="session")
def inputs(examples, good_files, long_file, bad_files, silent_files) -> Inputs:
    good = [
        str(long_file),
        *(str(good_files / name) for name in ("a b\u00e9.OGG", "speech.m4a", "speech.webm")),
        *(str(good_files / "deep" / name) for name in ("speech.mp3", "speech.wav")),
        str(good_files / "deep" / "er" / "speech.flac"),
        str(examples / "digit_four.wav"),
        str(examples / "digit_seven.wav"),
        "-",
    ]
    bad = list(bad_files)
    # Good and bad ones side by side; what is named twice is read once.
    arguments = [
        *bad[:3],
        str(long_file),
        str(good_files),
        *bad[3:6],
        str(good_files / "deep" / "speech.wav"),
        str(examples / "digit_*.wav"),
        "-",
        *bad[6:],
        *silent_files,
    ]
    return Inputs(
        arguments, (examples / "us_female_1.ogg").read_bytes(), good, silent_files, bad_files
    )


# ---- the installed command: every start loads PyTorch, so one call answers many questions ----


@pytest.fixture(scope="session")
def big_call(run, random_model, inputs):
    options = ["--model", str(random_model), "--format", "json", "--jobs", "3"]
    return run("asr", *options, *inputs.arguments, stdin=inputs.stdin)


def test_results_come_in_the_order_of_the_inputs(big_call, inputs):
    assert [values["file"] for values in big_call.objects] == inputs.good + inputs.silent


def test_json_lines_have_what_was_promised(big_call, random_model):
    for values in big_call.objects:
        assert values.keys() >= MIN_KEYS
        assert values["model"] == str(random_model)
        assert values["rtf"] > 0 and values["duration_s"] > 0
        assert " ".join(segment["text"] for segment in values["segments"]) == values["text"]
        for segment in values["segments"]:
            assert segment.keys() == {"start", "end", "text", "confidence"}
            assert 0 <= segment["confidence"] <= 1
            assert 0 <= segment["start"] < segment["end"] <= values["duration_s"] + 0.01


def test_speech_is_heard_and_silence_is_not(big_call, inputs):
    texts = {values["file"]: values["text"] for values in big_call.objects}
    assert all(texts[file] for file in inputs.good)
    assert [texts[file] for file in inputs.silent] == ["", ""]


def test_every_bad_input_gets_one_line_and_the_status_is_1(big_call, inputs):
    assert big_call.status == 1
    for line, (file, cause) in zip(big_call.errors, inputs.bad.items(), strict=True):
        assert line.startswith(f"stepaudio: {file}: ")
        assert cause in line


def test_long_recording_is_cut_and_joined(big_call, long_file):
    (values,) = [v for v in big_call.objects if v["file"] == str(long_file)]
    assert values["duration_s"] == pytest.approx(soundfile.info(long_file).duration)
    segments = values["segments"]
    assert len(segments) >= 8
    assert all(segment["end"] - segment["start"] <= 25 for segment in segments)
    assert all(one["end"] <= two["start"] for one, two in itertools.pairwise(segments))
    # Speech is all over the recording, and so are the segments.
    assert segments[0]["start"] < 2 and segments[-1]["end"] > values["duration_s"] - 3


def test_interrupt_keeps_what_is_finished(random_model, examples, tmp_path):
    endless = tmp_path / "endless.wav"
    os.mkfifo(endless)
    files = [str(examples / "digit_four.wav"), str(endless)]
    options = ["--model", str(random_model), "--format", "json", "--batch-size", "1"]
    with started("asr", *options, *files) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert json.loads(first)["file"] == files[0]
    assert (process.returncode, rest) == (130, b"")
    assert errors == b"stepaudio: interrupted\n"


def test_reader_that_goes_away(random_model, examples, tmp_path):
    files = [str(shutil.copy(examples / "digit_four.wav", tmp_path / f"{n}.wav")) for n in range(9)]
    options = ["--model", str(random_model), "--batch-size", "1"]
    with started("asr", *options, *files) as process:
        assert process.stdout.readline().startswith(f"{files[0]}: ".encode())
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, errors) == (141, b"")


def started(*arguments: str) -> subprocess.Popen[bytes]:
    command = [Path(sys.executable).parent / "stepaudio", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell in the background lets its programs ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


# ---- the installed command without a model: starts at once -------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["asr"], "PATH"),
        (["asr", "a.wav", "--format", "docx"], "--format"),
        (["asr", "a.wav", "--batch-size", "0"], "--batch-size"),
        (["asr", "a.wav", "--jobs", "many"], "--jobs"),
        (["asr", "a.wav", "--device", "tpu"], "--device"),
        (["asr", "a.wav", "--beam", "5"], "--beam"),
        (["asr", "a.wav", "--language", "fr"], "--language fr: nano transcribes en only"),
        (["asr", "a.wav", "--language", "french", "--model", "dir"], "--language french"),
        (["asr", "a.wav", "b.wav", "--format", "srt"], "--output-dir"),
        (["asr", "a.wav", "--format", "table", "--output-dir", "out"], "--format table"),
        (["transcribe", "a.wav"], "transcribe"),
    ],
)
def test_wrong_arguments(run, tmp_path, arguments, message):
    done = run(*arguments, cwd=tmp_path)
    assert (done.status, done.out) == (2, b"")
    assert len(done.errors) == 1
    assert done.errors[0].startswith("stepaudio: ") and message in done.errors[0]
    assert os.listdir(tmp_path) == []


def test_nothing_that_can_be_opened(run, tmp_path):
    (tmp_path / "folder").mkdir()
    done = run("asr", "gone.wav", "folder", cwd=tmp_path)
    assert (done.status, done.out) == (1, b"")
    assert [line.rsplit(";")[0] for line in done.errors] == [
        "stepaudio: gone.wav: no such file",
        "stepaudio: folder: is a folder",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_folder_that_must_not_be_read(run, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0)
    done = run("asr", folder)
    folder.chmod(0o700)
    assert (done.status, done.errors) == (1, [f"stepaudio: {folder}: permission denied"])


def test_standard_output_on_a_full_disk():
    command = [Path(sys.executable).parent / "stepaudio", "models"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        b"stepaudio: standard output: cannot be written: no space left on device\n"
    )


def test_models_go_into_a_pipe_that_closes():
    with started("models") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, b"")


def test_help_and_version_are_quick_and_light(run):
    script = (
        "import sys, stepaudio, stepaudio.cli\n"
        "assert not {'torch', 'transformers', 'numpy', 'tqdm'} & set(sys.modules)\n"
        "try:\n    stepaudio.cli.main(sys.argv[1:])\nexcept SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'torch', 'torchaudio', 'transformers', 'numpy', 'soundfile', 'tqdm'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    for arguments in (["--help"], ["asr", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True)
        assert done.returncode == 0, done.stderr
    before = os.times()
    assert run("--help").status == 0
    after = os.times()
    # Processor time, which other programs on the machine do not change.
    spent_s = after.children_user + after.children_system
    assert spent_s - before.children_user - before.children_system <= 0.5


# ---- the same function in this process: no start to wait for -----------------------------------

Main = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch, random_model) -> Iterator[Main]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run_main(*arguments: str | Path, stdin: bytes | None = None) -> Done:
        reader = io.TextIOWrapper(io.BytesIO(stdin or b""))
        monkeypatch.setattr(sys, "stdin", reader)
        status = main(["asr", "--model", str(random_model), *map(str, arguments)])
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return run_main


def test_threads_do_not_change_the_result(call, big_call, inputs):
    done = call("--format", "json", *inputs.good, *inputs.silent, stdin=inputs.stdin)
    assert (done.status, done.err) == (0, "")
    texts = [json.loads(line)["text"] for line in done.out.splitlines()]
    assert texts == [values["text"] for values in big_call.objects]


def test_text_names_the_files_only_where_there_are_several(call, examples):
    files = [examples / "us_female_1.ogg", examples / "us_female_2.ogg"]
    both = call(*files).out.splitlines()
    alone = call(files[0]).out.splitlines()
    assert [line.split(": ")[0] for line in both] == [str(file) for file in files]
    assert len(alone) == 1 and both[0] == f"{files[0]}: {alone[0]}"


def test_options_between_the_paths(call, examples):
    files = [examples / "digit_four.wav", examples / "digit_seven.wav"]
    done = call(files[0], "--format", "json", files[1])
    assert [json.loads(line)["file"] for line in done.out.splitlines()] == list(map(str, files))


def test_standard_input_that_can_seek(call, examples):
    done = call("-", stdin=(examples / "digit_four.wav").read_bytes())
    assert done.status == 0 and done.out.strip()
    done = call("-", stdin=b"")
    assert (done.status, done.out, done.err) == (
        1,
        "",
        "stepaudio: -: the file is empty (0 bytes)\n",
    )


def test_srt_on_standard_output(call, long_file):
    done = call("--format", "srt", long_file)
    blocks = done.out.strip().split("\n\n")
    assert len(blocks) >= 8
    assert [block.split("\n")[0] for block in blocks] == [str(n + 1) for n in range(len(blocks))]
    assert all(" --> " in block.split("\n")[1] for block in blocks)


def test_output_folder(call, good_files, silent_files, tmp_path):
    folder = tmp_path / "out"
    options = ("--format", "vtt", "--output-dir", folder)
    stems = ["a b\u00e9", "speech.m4a", "speech.webm", "speech.mp3", "speech.wav", "speech.flac"]
    written = [folder / f"{stem}.vtt" for stem in [*stems, "silence"]]
    done = call(*options, good_files, silent_files[0])
    assert (done.status, done.err) == (0, "")
    arrows = [line.split(" -> ")[1] for line in done.out.splitlines()]
    assert arrows == [str(path) for path in written]
    assert sorted(folder.iterdir()) == sorted([*written, folder / ".stepaudio-asr.jsonl"])
    assert all(path.read_text().startswith("WEBVTT\n\n00:0") for path in written[:-1])
    assert written[-1].read_text() == "WEBVTT\n"
    before = written[0].stat().st_mtime_ns
    again = call(*options, good_files, silent_files[0])
    there = "stepaudio: 7 of 7 transcripts are there already\n"
    assert (again.status, again.out, again.err) == (0, "", there)
    assert written[0].stat().st_mtime_ns == before
    done = call(*options, "--overwrite", silent_files[0])
    assert (done.status, done.out.count(" -> ")) == (0, 1)


def test_a_job_goes_on_where_it_stopped(call, examples, tmp_path):
    folder = tmp_path / "out"
    files = [shutil.copy(examples / f"digit_{name}.wav", tmp_path) for name in ("four", "seven")]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    options = ("--output-dir", folder)
    first = call(*options, files[0], broken)
    assert (first.status, first.out.count(" -> ")) == (1, 1)
    # What failed is tried again, what is new is done, and what is there is left alone.
    second = call(*options, *files, broken)
    assert second.status == 1 and [line.split(" -> ")[0] for line in second.out.splitlines()] == [
        str(files[1])
    ]
    assert "1 of 3 transcripts are there already" in second.err and "broken.wav" in second.err
    # Another option, a changed recording, a transcript that was removed.
    assert call(*options, *files, "--itn").out.count(" -> ") == 2
    assert call(*options, *files, "--itn").out == ""
    os.utime(files[0])
    (folder / "digit_seven.txt").unlink()
    assert call(*options, *files, "--itn").out.count(" -> ") == 2


def test_json_files_are_whole_objects(call, examples, tmp_path):
    call("--format", "json", "--output-dir", tmp_path, examples / "digit_four.wav")
    values = json.loads((tmp_path / "digit_four.json").read_text())
    assert values.keys() >= MIN_KEYS


def test_full_disk_under_the_output_folder(call, examples, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if "four" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    files = [examples / "digit_four.wav", examples / "digit_seven.wav"]
    done = call("--output-dir", tmp_path, *files)
    target = tmp_path / "digit_four.txt"
    assert done.status == 1
    assert done.err == f"stepaudio: {target}: cannot be written: no space left on the disk\n"
    assert sorted(os.listdir(tmp_path)) == [".stepaudio-asr.jsonl", "digit_seven.txt"]


def test_output_folder_that_cannot_be_made(call, examples, tmp_path):
    (tmp_path / "file").touch()
    done = call("--output-dir", tmp_path / "file", examples / "digit_four.wav")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"stepaudio: {tmp_path / 'file'}: is a file, not a folder for the output\n"


def test_file_name_that_is_not_utf8(call, examples, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    shutil.copy(examples / "digit_four.wav", name)
    done = call("--format", "json", name)
    assert json.loads(done.out)["file"] == name
    done = call("--output-dir", tmp_path / "out", name)
    assert (done.status, done.err) == (0, "")
    written = {name for name in os.listdir(os.fsencode(tmp_path / "out")) if name[:1] != b"."}
    assert written == {b"caf\xe9.txt"}


def test_model_that_is_not_there(capsys, examples, tmp_path):
    missing = tmp_path / "model"
    missing.mkdir()
    assert main(["asr", "--model", str(missing), str(examples / "digit_four.wav")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"stepaudio: {missing}") and captured.err.count("\n") == 1


def test_gpu_that_is_not_there(call, examples, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = call("--device", "cuda", examples / "digit_four.wav")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("stepaudio: device cuda: PyTorch finds no CUDA GPU")
