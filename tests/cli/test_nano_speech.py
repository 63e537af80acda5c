"""The embedded model speaks: its own voices, its sentences, and what others understand of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from torchaudio.functional import detect_pitch_frequency

from stepaudio.audio.io import load_audio
from stepaudio.catalog import list_voices
from stepaudio.text.wer import word_error_rate
from stepaudio_eval.asr import PocketsphinxRecognizer
from tests.cli.conftest import Command

SENTENCES = (
    "the museum opens on tuesday morning",
    "she walked along the river until the lights were out of sight",
    "please call me back when you have found the key",
    "my sister bought a large house near the station",
    "we had rain for three days and then the sun came out",
    "the doctor told him to drink more water",
)
# Word error rate of a recogniser that knows nothing of nano; the model card says what it reaches.
WER_CEILING = 0.5
FEMALE, MALE = ("kathleen", "slt"), ("rms",)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared voices are kept here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def spoken(run: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    lines = folder / "lines.txt"
    lines.write_text("\n".join(SENTENCES) + "\n")
    done = run("tts", "-i", lines, "--output-dir", folder, "--seed", "1")
    assert done.status == 0, done.errors
    return folder


def test_every_sentence_has_its_length_and_level(spoken: Path) -> None:
    for index, sentence in enumerate(SENTENCES, 1):
        sound = soundfile.info(spoken / f"{index:04d}.wav")
        assert (sound.samplerate, sound.channels) == (24_000, 1)
        assert 0.04 < sound.duration / len(sentence) < 0.14, sentence
        samples, _ = soundfile.read(spoken / f"{index:04d}.wav")
        assert 0.02 < abs(samples).max() <= 1.0


def test_others_understand_it(spoken: Path) -> None:
    wavs = [load_audio(spoken / f"{i:04d}.wav").samples for i in range(1, len(SENTENCES) + 1)]
    heard = PocketsphinxRecognizer().recognize(wavs)
    rate = word_error_rate(list(SENTENCES), heard)
    assert rate.rate <= WER_CEILING, heard


def median_pitch(path: Path) -> float:
    wav = load_audio(path).samples
    loud = wav.unfold(0, 400, 160).square().mean(-1)
    pitch = detect_pitch_frequency(wav[None], 16_000)[0]
    size = min(len(loud), len(pitch))
    return float(pitch[:size][loud[:size] > loud.mean()].median())


def test_women_speak_higher_than_men(run: Command, tmp_path: Path) -> None:
    pitches = {}
    for voice in (*FEMALE, *MALE):
        assert voice in list_voices()
        out = tmp_path / f"{voice}.wav"
        assert run("tts", SENTENCES[1], "-o", out, "--voice", voice, "--seed", "2").status == 0
        pitches[voice] = median_pitch(out)
    assert min(pitches[name] for name in FEMALE) > 1.2 * max(pitches[name] for name in MALE)


def test_the_same_seed_gives_the_same_speech(run: Command, spoken: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.wav"
    run("tts", SENTENCES[5], "-o", out, "--seed", "5")
    first = soundfile.read(out)[0]
    run("tts", SENTENCES[5], "-o", out, "--seed", "5")
    assert abs(first - soundfile.read(out)[0]).max() < 1e-4
    run("tts", SENTENCES[5], "-o", out, "--seed", "6")
    assert (
        len(first) != len(soundfile.read(out)[0])
        or abs(first - soundfile.read(out)[0]).max() > 1e-2
    )


def test_a_recording_survives_its_audio_tokens(
    run: Command, examples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.wav"
    source = examples / "us_female_1.ogg"
    assert run("resynth", source, out).status == 0
    before, after = load_audio(source).samples, load_audio(out).samples
    assert len(after) == pytest.approx(len(before), abs=16_000 // 25)
    size = min(len(before), len(after)) // 400 * 400
    loudness = [wav[:size].view(-1, 400).std(-1) for wav in (before, after)]
    assert float(torch.corrcoef(torch.stack(loudness))[0, 1]) > 0.6


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("what is your name", ("nano",)),
        ("hello", ("hello", "hi", "hey")),
        ("what is three plus four", ("seven",)),
        ("spell the word cat", ("c a t",)),
    ],
)
def test_the_small_world(run: Command, question: str, answers: tuple[str, ...]) -> None:
    done = run("chat", "--text", question)
    assert done.status == 0
    assert any(answer in done.out.decode().lower() for answer in answers), done.out


def test_a_spoken_question_is_answered_aloud(run: Command, tmp_path: Path) -> None:
    question, reply = tmp_path / "question.wav", tmp_path / "reply.wav"
    run("tts", "what is your name", "-o", question, "--voice", "slt", "--seed", "1")
    done = run("chat", "--audio", question, "--out", reply)
    assert done.status == 0, done.errors
    sound = soundfile.info(reply)
    assert sound.samplerate == 24_000
    assert sound.duration > 0.5
