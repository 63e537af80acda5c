import io
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import (
    Waveform,
    iter_audio_blocks,
    load_audio,
    probe_duration_s,
    rechunk,
    save_audio,
)
from stepaudio.errors import AudioLoadError, OutputError

from .conftest import AV_FORMATS, SOUNDFILE_FORMATS, chirp, encode, encode_av

WriteAudio = Callable[..., Path]
ALL_KINDS = [*SOUNDFILE_FORMATS, *AV_FORMATS]
# Lossy codecs may move a sample by their delay; wav, flac and aiff are exact.
LOSSY = {"mp3", "ogg", "opus", "m4a", "webm", "aac"}


def one_line(error: pytest.ExceptionInfo[AudioLoadError], path: object) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (24_000, 1)])
def test_every_format_gives_the_same_sound(
    write_audio: WriteAudio, kind: str, rate: int, channels: int
) -> None:
    path = write_audio(kind, 1.5, rate, channels)

    wav = load_audio(path)

    assert isinstance(wav, Waveform)
    assert wav.samples.dtype == torch.float32 and wav.samples.ndim == 1
    assert wav.sample_rate == SAMPLE_RATE
    assert wav.duration_s == pytest.approx(1.5, abs=0.12)
    expected = torch.from_numpy(chirp(1.5, SAMPLE_RATE)[:, 0])
    length = min(len(expected), len(wav.samples))
    assert length == pytest.approx(1.5 * SAMPLE_RATE, abs=2000)
    if kind not in LOSSY:
        assert len(wav.samples) == len(expected)
        assert (wav.samples - expected)[200:-200].abs().max() < 2e-3
    power, wanted = wav.samples[:length].square().mean(), expected[:length].square().mean()
    assert power / wanted == pytest.approx(1.0, abs=0.15)
    assert probe_duration_s(path) == pytest.approx(wav.duration_s, abs=0.1)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_bytes_paths_and_file_objects_agree(write_audio: WriteAudio, kind: str) -> None:
    path = write_audio(kind, 0.5, 48_000)
    expected = load_audio(path).samples

    assert torch.equal(load_audio(str(path)).samples, expected)
    assert torch.equal(load_audio(path.read_bytes()).samples, expected)
    with path.open("rb") as handle:
        handle.seek(7)
        assert torch.equal(load_audio(handle).samples, expected)


def test_pipe_is_read_to_its_end(write_audio: WriteAudio) -> None:
    data = write_audio("flac", 0.3).read_bytes()
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as out:
        out.write(data)
    with os.fdopen(reader, "rb") as handle:
        assert len(load_audio(handle).samples) == 4800


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_resampling_is_torchaudios(tmp_path: Path, rate: int) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (rate // 2, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="FLOAT")

    both = torchaudio.transforms.Resample(rate, SAMPLE_RATE)(torch.from_numpy(sound.T.copy()))

    assert torch.allclose(load_audio(tmp_path / "a.wav").samples, both[0], atol=1e-6)
    mean = load_audio(tmp_path / "a.wav", mono="mean").samples
    assert torch.allclose(mean, both.mean(0), atol=1e-6)
    assert load_audio(tmp_path / "a.wav").source_rate == rate


@pytest.mark.parametrize("kind", ["wav", "m4a"])
@pytest.mark.parametrize(("rate", "block_s"), [(16_000, 0.3), (44_100, 1.0), (48_000, 0.07)])
def test_blocks_together_are_the_whole_file(
    write_audio: WriteAudio, kind: str, rate: int, block_s: float
) -> None:
    path = write_audio(kind, 3.3, rate)

    blocks = list(iter_audio_blocks(path, block_s))

    assert {len(block) for block in blocks[:-1]} == {round(block_s * SAMPLE_RATE)}
    assert torch.allclose(torch.cat(blocks), load_audio(path).samples, atol=1e-5)


def test_rechunk_keeps_every_sample() -> None:
    blocks = [torch.arange(n, dtype=torch.float32) for n in (0, 3, 10, 1, 0, 25)]
    out = list(rechunk(blocks, 7))
    assert [len(block) for block in out] == [7, 7, 7, 7, 7, 4]
    assert torch.equal(torch.cat(out), torch.cat(blocks))


def test_block_shorter_than_a_sample_is_refused(write_audio: WriteAudio) -> None:
    with pytest.raises(ValueError, match="block_s"):
        next(iter_audio_blocks(write_audio("wav"), 0.0))


def test_long_recording_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as out:
        for _ in range(40):
            out.write(np.zeros(60 * 16_000, dtype=np.int16))

    def resident_bytes() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    before, highest, total = resident_bytes(), 0, 0
    for block in iter_audio_blocks(path):
        total += len(block)
        highest = max(highest, resident_bytes())

    assert total == 40 * 60 * SAMPLE_RATE
    assert probe_duration_s(path) == 2400.0
    assert highest - before < 60e6  # the samples alone would be 150 MB


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AudioLoadError) as error:
        load_audio(tmp_path / "none.wav")
    assert "no such file" in one_line(error, tmp_path / "none.wav")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioLoadError) as error:
        load_audio(tmp_path)
    assert "is a folder" in one_line(error, tmp_path)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")

    def deny(path: object, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", deny)
    monkeypatch.setattr(os, "listdir", deny)
    for path in (tmp_path / "a.wav", tmp_path):
        with pytest.raises(AudioLoadError) as error:
            load_audio(path)
        assert "permission denied" in one_line(error, path)


def test_device_and_bad_path() -> None:
    with pytest.raises(AudioLoadError, match="device"):
        load_audio("/dev/null")
    with pytest.raises(AudioLoadError, match="cannot be opened"):
        load_audio("a\0b.wav")
    with pytest.raises(AudioLoadError, match=r"^two\\nlines.wav: no such file$"):
        load_audio("two\nlines.wav")


@pytest.mark.parametrize("source", [b"", io.BytesIO()])
def test_empty(source: bytes | io.BytesIO) -> None:
    with pytest.raises(AudioLoadError, match=r"^-: the file is empty"):
        load_audio(source, name="-")


@pytest.mark.parametrize("kind", ["wav", "ogg", "aiff"])
def test_zero_samples(write_audio: WriteAudio, kind: str) -> None:
    path = write_audio(kind, 0.0)
    with pytest.raises(AudioLoadError) as error:
        load_audio(path)
    assert "holds no samples" in one_line(error, path)


@pytest.mark.parametrize("text", ["hello\n" * 50, "x", "#EXTM3U\nfile:///etc/passwd\n", "{}"])
def test_text_with_the_name_of_audio(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.wav"
    path.write_text(text)
    with pytest.raises(AudioLoadError) as error:
        load_audio(path)
    assert "not audio in any format" in one_line(error, path)


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "aac"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated(
    write_audio: WriteAudio, kind: str, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_audio(kind, 6.0, 48_000, keep=keep)
    with pytest.raises(AudioLoadError) as error:
        load_audio(path)
    assert "cut off" in one_line(error, path)
    assert capfd.readouterr() == ("", "")  # mpg123 likes to comment


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_only_the_first_bytes(write_audio: WriteAudio, kind: str) -> None:
    path = write_audio(kind, 1.0)
    data = path.read_bytes()
    for num_bytes in (1, 4, 12, 20, 40, 44, 60, 100):
        path.write_bytes(data[:num_bytes])
        with pytest.raises(AudioLoadError) as error:
            load_audio(path)
        one_line(error, path)


def test_wav_written_to_a_pipe_is_whole(write_audio: WriteAudio) -> None:
    data = bytearray(write_audio("wav", 1.0).read_bytes())
    at = data.index(b"data") + 4
    for unknown in (0xFFFF_FFFF, 0x7FFF_F000):
        data[at : at + 4] = unknown.to_bytes(4, "little")
        assert len(load_audio(bytes(data)).samples) == SAMPLE_RATE


def test_corrupt_flac(write_audio: WriteAudio) -> None:
    path = write_audio("flac", 6.0)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(AudioLoadError) as error:
        load_audio(path)
    assert "corrupt" in one_line(error, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, value: float) -> None:
    sound = chirp(1.0, 16_000)
    sound[8000] = value
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    with pytest.raises(AudioLoadError) as error:
        load_audio(tmp_path / "a.wav")
    assert "NaN or infinite samples at 0.500 s" in one_line(error, tmp_path / "a.wav")


def test_video_with_and_without_sound(tmp_path: Path) -> None:
    silent = encode_av(np.zeros((0, 1), np.float32), 16_000, "mp4", "aac", video=True)
    with pytest.raises(AudioLoadError, match="no audio track"):
        load_audio(silent)
    sounding = encode_av(chirp(1.0, 16_000), 16_000, "mp4", "aac", video=True)
    assert len(load_audio(sounding).samples) == pytest.approx(SAMPLE_RATE, abs=2048)


@pytest.mark.parametrize("audio_format", ["u8", "s16", "s32", "flt"])
def test_sample_formats_of_pyav(audio_format: str) -> None:
    from stepaudio.audio.decoding import _frame_samples

    planar = np.array([[0.0, 0.5, -1.0], [0.25, -0.25, 0.5]], dtype=np.float32)
    scale = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0}[audio_format]
    dtype = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32}[audio_format]
    stored = (planar.astype(np.float64) * scale + (128 if audio_format == "u8" else 0)).astype(
        dtype
    )
    packed = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(stored.T.reshape(1, -1)), format=audio_format, layout="stereo"
    )
    apart = av.AudioFrame.from_ndarray(stored, format=f"{audio_format}p", layout="stereo")
    for frame in (packed, apart):
        assert np.allclose(_frame_samples(frame), planar.T, atol=1e-6)


def test_duration_limit(write_audio: WriteAudio) -> None:
    path = write_audio("wav", 2.0)
    assert load_audio(path, max_duration_s=2.0).duration_s == 2.0
    with pytest.raises(AudioLoadError, match=r"longer than the limit of 1\.5 s"):
        load_audio(path, max_duration_s=1.5)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus"])
def test_save_and_load(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    sound = torch.from_numpy(chirp(1.0, 24_000)[:, 0])

    save_audio(path, sound, 24_000)

    wav = load_audio(path, sample_rate=24_000)
    assert wav.source_rate == 24_000 and len(wav.samples) == len(sound)
    if suffix in (".wav", ".flac"):
        assert torch.allclose(wav.samples, sound, atol=1e-4)
    assert os.listdir(tmp_path) == [path.name]


def test_save_clips_and_checks(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.wav", np.array([2.0, -3.0, 0.0], dtype=np.float32))
    assert load_audio(tmp_path / "a.wav").samples.abs().max() <= 1.0
    with pytest.raises(ValueError, match="suffix"):
        save_audio(tmp_path / "a.txt", torch.zeros(10))
    with pytest.raises(ValueError, match="mono"):
        save_audio(tmp_path / "a.wav", torch.zeros(2, 10))
    with pytest.raises(ValueError, match="44100 Hz"):
        save_audio(tmp_path / "a.opus", torch.zeros(10), 44_100)
    with pytest.raises(OutputError, match="there is no folder"):
        save_audio(tmp_path / "no" / "a.wav", torch.zeros(10))


def test_encoded_kinds_differ() -> None:
    """The fixtures really exercise both decoders."""
    sound = chirp(0.2, 16_000)
    for kind in SOUNDFILE_FORMATS:
        soundfile.info(io.BytesIO(encode(sound, 16_000, kind)))
    for kind in ("m4a", "webm"):
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.info(io.BytesIO(encode(sound, 16_000, kind)))


def test_mp3_without_header_and_joined_mp3(write_audio: WriteAudio) -> None:
    data = write_audio("mp3", 20.0, 44_100).read_bytes()
    assert load_audio(2 * data).duration_s == pytest.approx(40.0, abs=0.2)
    bare = data.replace(b"Xing", b"none", 1).replace(b"Info", b"none", 1)
    assert load_audio(bare).duration_s == pytest.approx(20.0, abs=0.2)


def test_flac_of_unknown_length(write_audio: WriteAudio) -> None:
    data = bytearray(write_audio("flac", 2.0).read_bytes())
    data[21] &= 0xF0  # 36 bits of STREAMINFO: total samples, 0 for unknown
    data[22:26] = bytes(4)
    assert load_audio(bytes(data)).duration_s == 2.0
    assert probe_duration_s(bytes(data)) == 2.0


def test_lost_page_of_an_opus_file(write_audio: WriteAudio) -> None:
    data = bytearray(write_audio("opus", 6.0, 48_000).read_bytes())
    page = data.index(b"OggS", len(data) // 2)
    data[page : page + 4] = b"oops"
    with pytest.raises(AudioLoadError, match="corrupt"):
        load_audio(bytes(data))


@pytest.mark.parametrize("rate", [20, 40_000_000])
def test_sample_rate_that_cannot_be(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "rate.wav"
    soundfile.write(path, np.zeros(1000, dtype=np.float32), rate)
    with pytest.raises(AudioLoadError) as error:
        load_audio(path)
    assert f"a sample rate of {rate} Hz" in one_line(error, path)


def test_tags_that_are_not_utf8() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as muxer:
        muxer.metadata["title"] = "caf\u00e9"
        track = muxer.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, SAMPLE_RATE), dtype=np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        muxer.mux([*track.encode(frame), *track.encode(None)])
    latin1 = out.getvalue().replace("caf\u00e9".encode(), b"caf\xe9!")
    assert latin1 != out.getvalue()
    assert load_audio(latin1).duration_s == pytest.approx(1.0, abs=0.1)
